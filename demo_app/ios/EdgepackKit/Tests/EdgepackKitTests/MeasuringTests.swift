import Foundation
import XCTest

@testable import EdgepackKit

/// A clock that queries move, and that shows steps.
private final class SteppedClock: EdgepackKit.Clock {
    var nanoseconds: UInt64 = 0
    let step: UInt64

    init(step: UInt64) {
        self.step = step
    }

    func now() -> UInt64 {
        nanoseconds += 1
        return nanoseconds / step * step
    }
}

/// Doubles what it is given, in a time of its own.
private final class Doubling: Model {
    private let clock: SteppedClock
    private let cost: UInt64
    private var held: [Float] = []
    var fails = false

    init(clock: SteppedClock, cost: UInt64) {
        self.clock = clock
        self.cost = cost
    }

    func set(_ feed: [String: Data]) throws {
        held = try XCTUnwrap(feed["image"]).withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
    }

    func predict() throws {
        if fails { throw Refusal(refused: "Core ML says no") }
        clock.nanoseconds += cost
    }

    func outputs() throws -> [OutputTensor] {
        [OutputTensor(name: "logits", dtype: "float32", shape: [1, held.count], data: littleEndian(held.map { 2 * $0 }))]
    }
}

private struct Phone: Device {
    let clock: SteppedClock
    let models: [String: Doubling]

    func open(_ subject: Subject, from server: Server) async throws -> Model {
        try XCTUnwrap(models[subject.scheme])
    }

    func look(_ conditions: inout Conditions) {
        conditions.look(hidden: false, thermalState: 0, savesPower: false)
    }
}

/// Asks for answers of both subjects and then for the times of those that ran.
private final class Counter: Server {
    let plan: Plan
    let golden: Data
    var posted: [(path: String, body: Data)] = []
    private var steps: [NextStep]

    init(plan: Plan, golden: Data, steps: [NextStep]) {
        self.plan = plan
        self.golden = golden
        self.steps = steps
    }

    func get(_ path: String) async throws -> Data {
        path == "/plan.json" ? try JSONEncoder().encode(plan) : golden
    }

    func post(_ path: String, _ body: Data) async throws -> Data {
        posted.append((path, body))
        let reply = Reply(next: steps.removeFirst(), truth: "measured", verdicts: [], failures: [], latencies: [:], kept: path == "/times" ? 2 : 0)
        if path == "/visits" { return try JSONEncoder().encode(Began(device: [:], truth: "measured", reply: reply)) }
        return try JSONEncoder().encode(reply)
    }
}

final class MeasuringTests: XCTestCase {
    private func plan() throws -> Plan {
        var plan = try JSONDecoder().decode(Plan.self, from: fixture("plan"))
        plan.samples = 2
        for index in plan.subjects.indices { plan.subjects[index].inputs[0].shape = [1, 3] }
        plan.timing.seconds = 0
        return plan
    }

    private func step(_ kind: NextStep.Kind, _ subjects: Int...) -> NextStep { NextStep(kind: kind, nonce: "nonce-\(subjects)", subjects: subjects) }

    func testTheServerLeadsThroughAnswersAndTimes() async throws {
        let clock = SteppedClock(step: 1000)
        let phone = Phone(clock: clock, models: ["fp32": Doubling(clock: clock, cost: 4000), "w8a8": Doubling(clock: clock, cost: 2000)])
        let steps = [step(.answers, 0), step(.answers, 1), step(.times, 0, 1), step(.done)]
        let server = Counter(plan: try plan(), golden: littleEndian([1, 2, 3, 4, 5, 6] as [Float]), steps: steps)
        let kept = try await Measurer(server: server, device: phone).measure(iPhone)
        XCTAssertEqual(kept, 2)
        XCTAssertEqual(server.posted.map(\.path), ["/visits", "/answers", "/answers", "/times"])
        let answers = try JSONDecoder().decode(Answers.self, from: server.posted[1].body)
        XCTAssertEqual(answers.nonce, "nonce-[0]")
        XCTAssertEqual(answers.outputs[0].shape, [2, 1, 3])
        XCTAssertEqual(answers.outputs[0].data, littleEndian([2, 4, 6, 8, 10, 12] as [Float]))
        let times = try JSONDecoder().decode(Times.self, from: server.posted[3].body)
        XCTAssertEqual(times.tickNanoseconds, 1000)
        XCTAssertEqual(times.series.map(\.subject), [0, 1])
        // 100 steps of 1000 ns: 25 and 50 queries span them, and batches double.
        XCTAssertEqual(times.series.map(\.inner), [32, 64])
        let taken = times.series.map { $0.taken.withUnsafeBytes { Array($0.bindMemory(to: Double.self)) } }
        XCTAssertEqual(taken.map(\.count), [40, 40])
        for (found, cost) in zip(taken, [4000.0, 2000.0]) { XCTAssertTrue(found.allSatisfy { abs($0 - cost) < 0.02 * cost }) }
        XCTAssertEqual(times.error, "")
    }

    func testAModelThatFailsIsReportedAndEndsNothing() async throws {
        let clock = SteppedClock(step: 1)
        let broken = Doubling(clock: clock, cost: 1)
        broken.fails = true
        let phone = Phone(clock: clock, models: ["fp32": broken, "w8a8": Doubling(clock: clock, cost: 10)])
        let server = Counter(plan: try plan(), golden: littleEndian([1, 2, 3, 4, 5, 6] as [Float]), steps: [step(.answers, 0), step(.answers, 1), step(.done)])
        _ = try await Measurer(server: server, device: phone).measure(iPhone)
        let answers = try JSONDecoder().decode(Answers.self, from: server.posted[1].body)
        XCTAssertEqual(answers.error, "Core ML says no")
        XCTAssertTrue(answers.outputs.isEmpty)
        XCTAssertEqual(try JSONDecoder().decode(Answers.self, from: server.posted[2].body).error, "")
    }

    func testRoundsGoForthAndBackAndKeepEverySample() throws {
        let clock = SteppedClock(step: 1)
        var order = ""
        let asked = TimingProtocol(profile: "smoke", warmUp: 1, pairs: 4, seconds: 0, warmUpSeconds: 0, window: 10, fewestTicks: 50, mostInner: 1024)
        let watch = Stopwatch(clock: clock, asked: asked)
        let found = try watch.interleave([{ order += "a" }, { order += "b" }], inner: [1, 3])
        XCTAssertEqual(order, "abbbbbbaabbbbbba")
        XCTAssertEqual(found.map(\.taken.count), [4, 4])
        XCTAssertEqual(found[0].starts, found[0].starts.sorted())
    }

    func testTimesAreSettledWhenTheyNoLongerFall() {
        let falling = (0..<20).map { 100 - Double($0) }
        XCTAssertFalse(isSettled(falling, window: 10))
        XCTAssertTrue(isSettled(falling.reversed(), window: 10))
        XCTAssertTrue(isSettled([Double](repeating: 5, count: 20), window: 10))
        XCTAssertFalse(isSettled([Double](repeating: 5, count: 19), window: 10))
        // One late query decides nothing.
        XCTAssertTrue(isSettled([1, 2, 1, 2, 900, 2, 1, 2, 1, 2, 2, 2, 1, 2, 2, 2, 2, 1, 2, 2], window: 10))
    }

    func testAClockThatStandsStillHasNoStep() {
        struct Still: EdgepackKit.Clock {
            func now() -> UInt64 { 7 }
        }
        let asked = TimingProtocol(profile: "", warmUp: 1, pairs: 1, seconds: 0, warmUpSeconds: 0, window: 10, fewestTicks: 50, mostInner: 8)
        XCTAssertEqual(Stopwatch(clock: Still(), asked: asked).tick(), 0)
        XCTAssertGreaterThan(Stopwatch(clock: SystemClock(), asked: asked).tick(), 0)
    }
}
