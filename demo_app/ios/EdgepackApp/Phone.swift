import CryptoKit
import EdgepackKit
import Foundation
import UIKit

/// The phone that the app runs on.
final class Phone: Device {
    let clock = SystemClock()
    /// Hears the scores that a model gave for the sample that was set last.
    private let hear: (Subject, [Double]) -> Void
    private let folder = FileManager.default.temporaryDirectory.appendingPathComponent("edgepack", isDirectory: true)

    init(hear: @escaping (Subject, [Double]) -> Void) {
        self.hear = hear
    }

    func open(_ subject: Subject, from server: Server) async throws -> Model {
        guard let unit = subject.computeUnit else { throw Refusal(refused: "Core ML has no compute unit '\(subject.unit)'") }
        return try await CoreMLModel(package: try await package(subject, from: server), subject: subject, unit: unit, hear: hear)
    }

    func look(_ conditions: inout Conditions) {
        let process = ProcessInfo.processInfo
        conditions.look(
            hidden: InView.shared.wasLeft, thermalState: process.thermalState.rawValue, savesPower: process.isLowPowerModeEnabled)
    }

    /// Every file of the .mlpackage, each as it was verified; downloaded once for all compute units.
    private func package(_ subject: Subject, from server: Server) async throws -> URL {
        let package = folder.appendingPathComponent("\(subject.sha256).mlpackage", isDirectory: true)
        for file in subject.files {
            let destination = try place(of: file, in: package)
            if let held = try? Data(contentsOf: destination), matches(held, file) { continue }
            let content = try await server.get("/artifacts/\(subject.sha256)/\(file.path)")
            guard matches(content, file) else { throw Refusal(refused: "\(file.path) did not arrive as it was verified") }
            try FileManager.default.createDirectory(at: destination.deletingLastPathComponent(), withIntermediateDirectories: true)
            try content.write(to: destination, options: .atomic)
        }
        return package
    }

    private func matches(_ content: Data, _ file: PlannedFile) -> Bool {
        SHA256.hash(data: content).map { String(format: "%02x", $0) }.joined() == file.sha256
    }

    @MainActor
    static func facts() -> AppFacts {
        let process = ProcessInfo.processInfo
        let version = UIDevice.current.systemVersion
        let app = Bundle.main.infoDictionary?["CFBundleShortVersionString"] as? String ?? "?"
        let still = TimingProtocol(
            profile: "", warmUp: 1, pairs: 1, seconds: 0, warmUpSeconds: 0, window: 1, fewestTicks: 1, mostInner: 1)
        InView.shared.begin()
        return AppFacts(
            version: version, units: ComputeUnit.allCases, app: "EdgepackApp \(app)", model: model(),
            system: "\(UIDevice.current.systemName) \(version)", machine: "arm64", virtual: isSimulator, debug: isDebugged,
            cores: process.activeProcessorCount, memoryGiB: Double(process.physicalMemory) / 1_073_741_824,
            tickNanoseconds: Stopwatch(clock: SystemClock(), asked: still).tick())
    }

    /// "iPhone16,1": of the simulator the phone that it simulates. A Mac that runs the app gives itself out for an iPad, and is none.
    private static func model() -> String {
        let process = ProcessInfo.processInfo
        if process.isiOSAppOnMac || process.isMacCatalystApp { return "Mac" }
        if let simulated = ProcessInfo.processInfo.environment["SIMULATOR_MODEL_IDENTIFIER"] { return simulated }
        var system = utsname()
        uname(&system)
        return withUnsafeBytes(of: &system.machine) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }

    private static var isSimulator: Bool {
        #if targetEnvironment(simulator)
            return true
        #else
            return false
        #endif
    }

    /// Built without optimization, or traced (sysctl KERN_PROC_PID, P_TRACED; Apple's QA1361).
    private static var isDebugged: Bool {
        #if DEBUG
            return true
        #else
            var info = kinfo_proc()
            var size = MemoryLayout<kinfo_proc>.stride
            var name: [Int32] = [CTL_KERN, KERN_PROC, KERN_PROC_PID, getpid()]
            guard sysctl(&name, UInt32(name.count), &info, &size, nil, 0) == 0 else { return false }
            return info.kp_proc.p_flag & P_TRACED != 0
        #endif
    }
}

/// Whether the app left the foreground since the run began; iOS slows apps down that do.
final class InView: @unchecked Sendable {
    static let shared = InView()

    private let lock = NSLock()
    private var left = false
    private var observer: NSObjectProtocol?

    var wasLeft: Bool { lock.withLock { left } }

    func begin() {
        lock.withLock { left = false }
        guard observer == nil else { return }
        observer = NotificationCenter.default.addObserver(
            forName: UIApplication.willResignActiveNotification, object: nil, queue: nil
        ) { [weak self] _ in self?.lock.withLock { self?.left = true } }
    }
}
