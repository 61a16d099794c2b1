// The files in Fixtures are also what the server's own tests read and write (tests/serve/test_app.py): both sides are held to them.
import Foundation
import XCTest

@testable import EdgepackKit

func fixture(_ name: String) throws -> Data {
    let url = try XCTUnwrap(Bundle.module.url(forResource: name, withExtension: "json", subdirectory: "Fixtures"))
    return try Data(contentsOf: url)
}

let iPhone = AppFacts(
    version: "18.1", units: [.cpuAndNeuralEngine, .cpuOnly], app: "EdgepackApp 1.0", model: "iPhone16,1", system: "iOS 18.1",
    machine: "arm64", virtual: false, debug: false, cores: 6, memoryGiB: 7.5, tickNanoseconds: 42)

final class MessagesTests: XCTestCase {
    func testWhatIsPostedIsTheFileThatTheServerIsHeldTo() throws {
        var conditions = Conditions()
        conditions.look(hidden: false, thermalState: 1, savesPower: false)
        let nonce = "AAAAAAAAAAAAAAAAAAAAAA"
        let values: [Float] = [0.5, -1.25, 2, 3, -0.0, 1e-3]
        let logits = OutputTensor(name: "logits", dtype: "float32", shape: [2, 1, 3], data: littleEndian(values))
        try equal(Visit(app: iPhone), "visit")
        try equal(Answers(nonce: nonce, outputs: [logits]), "answers")
        try equal(Answers(nonce: nonce, error: "Core ML cannot load the model"), "failed")
        let series = [
            Series(subject: 0, warmUp: [900, 400, 300], inner: 2, taken: [300, 301, 299], starts: [0, 1200, 2400]),
            Series(subject: 1, warmUp: [500, 250], inner: 1, taken: [150, 151, 149], starts: [600, 1800, 3000]),
        ]
        try equal(Times(nonce: nonce, tickNanoseconds: 42, series: series, conditions: conditions), "times")
    }

    func testWhatTheServerSaysIsRead() throws {
        let began = try JSONDecoder().decode(Began.self, from: fixture("began"))
        XCTAssertEqual(began.truth, "measured")
        XCTAssertEqual(began.device["board"], "iPhone16,1")
        XCTAssertEqual(began.reply.next.kind, .answers)
        let plan = try JSONDecoder().decode(Plan.self, from: fixture("plan"))
        XCTAssertEqual(plan.samples, 16)
        XCTAssertEqual(plan.subjects.map(\.computeUnit), [.cpuAndNeuralEngine, .cpuAndNeuralEngine])
        XCTAssertEqual(plan.subjects[0].inputs[0].shape, [1, 1, 28, 28])
        XCTAssertEqual(plan.timing.pairs, 40)
        XCTAssertEqual(plan.demo.labels.count, 10)
        XCTAssertTrue(plan.subjects[0].files.contains { $0.path == "Manifest.json" })
        let answered = try JSONDecoder().decode(Reply.self, from: fixture("answered"))
        XCTAssertEqual(answered.verdicts.map(\.name), ["logits"])
        let timed = try JSONDecoder().decode(Reply.self, from: fixture("timed"))
        XCTAssertEqual(timed.next.kind, .done)
        XCTAssertEqual(timed.latencies["0"]?.p50?.count, 3)
    }

    func testTheWorstOfARunIsReportedInTheNumbersOfReports() {
        var conditions = Conditions()
        XCTAssertNil(conditions.worstThermalStatus)
        for state in [0, 3, 1] { conditions.look(hidden: state == 3, thermalState: state, savesPower: false) }
        XCTAssertEqual(conditions.worstThermalStatus, 4)
        XCTAssertTrue(conditions.wasHidden)
        XCTAssertFalse(conditions.savedPower)
        conditions.look(hidden: false, thermalState: 99, savesPower: true)
        XCTAssertEqual(conditions.worstThermalStatus, 4)
        XCTAssertTrue(conditions.savedPower)
    }

    private func equal(_ message: some Encodable, _ name: String, line: UInt = #line) throws {
        let ours = try JSONSerialization.jsonObject(with: JSONEncoder().encode(message)) as? NSDictionary
        let theirs = try JSONSerialization.jsonObject(with: fixture(name)) as? NSDictionary
        XCTAssertNotNil(ours)
        XCTAssertEqual(ours, theirs, line: line)
    }
}
