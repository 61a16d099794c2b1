import Foundation
import XCTest

@testable import EdgepackKit

final class NumbersTests: XCTestCase {
    private func port(_ dtype: String, _ shape: [Int]) -> TensorPort { TensorPort(name: "image", dtype: dtype, shape: shape, permutation: []) }

    func testAGoldenSampleIsCutFromTheStack() throws {
        let stack = littleEndian((0..<12).map(Float.init))
        let golden = try GoldenInput(port: port("float32", [1, 3]), samples: 4, data: stack)
        XCTAssertEqual(golden.sample(2), littleEndian([6, 7, 8] as [Float]))
        XCTAssertThrowsError(try GoldenInput(port: port("float32", [1, 3]), samples: 5, data: stack))
        XCTAssertThrowsError(try GoldenInput(port: port("int64", [1, 3]), samples: 4, data: stack))
        XCTAssertThrowsError(try GoldenInput(port: port("float32", [1, 3]), samples: 0, data: Data()))
    }

    func testAPaddedBufferIsPackedInTheOrderOfC() {
        // Two rows of three, each padded to four: what Core ML gives for widths that are no multiple of its alignment.
        let padded: [Float] = [0, 1, 2, -9, 3, 4, 5, -9]
        let found = padded.withUnsafeBytes { packed($0, shape: [1, 2, 3], strides: [8, 4, 1], size: 4) }
        XCTAssertEqual(found, littleEndian([0, 1, 2, 3, 4, 5] as [Float]))
    }

    func testDecibelsAreThoseOfTheDefinition() throws {
        XCTAssertNil(decibels(reference: [1, 2], actual: [1, 2]))
        XCTAssertEqual(decibels(reference: [1, .nan], actual: [1, .nan]), -.infinity)
        // 25 over 0.25, a hundred times the power.
        XCTAssertEqual(try XCTUnwrap(decibels(reference: [3, 4], actual: [3.5, 4])), 20, accuracy: 1e-12)
    }

    func testQuantilesAreNumpys() {
        // numpy.quantile([4, 1, 3, 2], [0, 0.25, 0.5, 0.9, 1]) is [1, 1.75, 2.5, 3.7, 4].
        for (q, expected) in [(0, 1), (0.25, 1.75), (0.5, 2.5), (0.9, 3.7), (1, 4)] {
            XCTAssertEqual(quantile(q, of: [4, 1, 3, 2]) ?? .nan, expected, accuracy: 1e-12)
        }
        XCTAssertNil(quantile(0.5, of: []))
    }

    func testTheLikeliestClassesAreASoftmaxOfTheScores() {
        let found = likeliest([0, log(3), log(6)], labels: ["a", "b", "c"], count: 2)
        XCTAssertEqual(found.map(\.label), ["c", "b"])
        XCTAssertEqual(found[0].probability, 0.6, accuracy: 1e-12)
        XCTAssertTrue(likeliest([1, 2], labels: ["a"]).isEmpty)
    }

    func testAnAddressIsTakenWholeOrNotAtAll() throws {
        let address = try ServerAddress(" https://192.0.2.7:8443/open/abc-_ \n")
        XCTAssertEqual(address.origin, "https://192.0.2.7:8443")
        XCTAssertEqual(address.url("/artifacts/00/Data/a b").absoluteString, "https://192.0.2.7:8443/artifacts/00/Data/a%20b")
        for wrong in ["", "192.0.2.7:8443", "https://192.0.2.7:8443/", "https://192.0.2.7:8443/open/", "https://192.0.2.7/open/a", "ftp://a:1/open/b"] {
            XCTAssertThrowsError(try ServerAddress(wrong), wrong)
        }
    }

    func testAFingerprintIsReadAsItIsShown() throws {
        let shown = (0..<32).map { String(format: "%02X", $0) }.joined(separator: ":")
        XCTAssertEqual(try Fingerprint(shown), try Fingerprint(digest: (0..<32).map(UInt8.init)))
        XCTAssertThrowsError(try Fingerprint("12:34"))
        XCTAssertThrowsError(try Fingerprint(String(repeating: "g", count: 64)))
    }

    func testAFileOfAPackageStaysInItsFolder() throws {
        let folder = URL(fileURLWithPath: "/tmp/model.mlpackage")
        let file = { PlannedFile(path: $0, bytes: 1, sha256: "") }
        XCTAssertEqual(try place(of: file("Data/com.apple.CoreML/model.mlmodel"), in: folder).path, "/tmp/model.mlpackage/Data/com.apple.CoreML/model.mlmodel")
        for path in ["", "/etc/passwd", "../a", "Data/../../a", "Data//a", "a/."] {
            XCTAssertThrowsError(try place(of: file(path), in: folder), path)
        }
    }
}
