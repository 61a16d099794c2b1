import EdgepackKit
import Foundation
import UIKit

/// One run through all that the server asks, as the view shows it.
@MainActor
final class Bench: ObservableObject {
    struct Row: Identifiable {
        let id: Int
        let scheme: String
        let unit: String
        var state = "waiting"
        var isBad = false
        var labels: String?
        var latency: String?
        var lines: [String] = []
    }

    @Published private(set) var rows: [Row] = []
    @Published private(set) var status = ""
    @Published private(set) var trouble: String?
    @Published private(set) var student = ""
    @Published private(set) var isRunning = false

    func start(address: String, fingerprint: String) {
        (isRunning, trouble, status, rows) = (true, nil, "connecting", [])
        // A phone that locks its screen slows the app down.
        UIApplication.shared.isIdleTimerDisabled = true
        Task {
            do {
                let kept = try await run(address: address, fingerprint: fingerprint)
                status = "\(kept) measurement\(kept == 1 ? " is" : "s are") with the pack now, as target ios."
            } catch {
                trouble = (error as? LocalizedError)?.errorDescription ?? error.localizedDescription
                status = ""
            }
            isRunning = false
            UIApplication.shared.isIdleTimerDisabled = false
        }
    }

    private func run(address: String, fingerprint: String) async throws -> Int {
        let pinned = fingerprint.isEmpty ? nil : try Fingerprint(fingerprint)
        let connection = Connection(address: try ServerAddress(address), pinned: pinned)
        let facts = Phone.facts()
        // Off the main actor: prediction must not wait for the view, nor the view for it.
        return try await Task.detached(priority: .userInitiated) { [weak self] in
            try await connection.open()
            let phone = Phone { subject, scores in Task { @MainActor in self?.show(scores, of: subject) } }
            let measurer = Measurer(server: connection, device: phone) { event in Task { @MainActor in self?.hear(event) } }
            return try await measurer.measure(facts)
        }.value
    }

    private var labels: [String] = []

    private func hear(_ event: Event) {
        switch event {
        case .began(_, let plan):
            (student, labels) = (plan.student, plan.demo.labels)
            rows = plan.subjects.map { Row(id: $0.id, scheme: "\($0.target) \($0.scheme)", unit: $0.unit) }
        case .started(let step, let subjects):
            status = step.kind == .answers ? "checking; keep the app in view" : "timing in turn; keep the app in view"
            for subject in subjects { change(subject.id) { $0.state = step.kind == .answers ? "checking" : "timing" } }
        case .judged(let subjects, let reply):
            for subject in subjects { change(subject.id) { judge(&$0, reply) } }
        }
    }

    private func judge(_ row: inout Row, _ reply: Reply) {
        if let found = reply.latencies[String(row.id)] {
            row.state = found.invalid.isEmpty ? "timed" : "spoiled"
            row.isBad = !found.invalid.isEmpty
            row.latency = found.p50.map { String(format: "p50 %.3g ms [%.3g, %.3g]", $0[0], $0[1], $0[2]) }
            row.lines = found.invalid + found.warnings
            return
        }
        row.state = reply.failures.isEmpty ? "agrees" : "wrong"
        row.isBad = !reply.failures.isEmpty
        row.lines = reply.failures
            + reply.verdicts.map { verdict in "\(verdict.name): " + (verdict.decibels.map { String(format: "%.1f dB", $0) } ?? "exact") }
    }

    private func show(_ scores: [Double], of subject: Subject) {
        let found = likeliest(scores, labels: labels)
        guard !found.isEmpty else { return }
        change(subject.id) { $0.labels = found.map { String(format: "%@ %.0f %%", $0.label, 100 * $0.probability) }.joined(separator: ", ") }
    }

    private func change(_ id: Int, _ how: (inout Row) -> Void) {
        guard let index = rows.firstIndex(where: { $0.id == id }) else { return }
        how(&rows[index])
    }
}
