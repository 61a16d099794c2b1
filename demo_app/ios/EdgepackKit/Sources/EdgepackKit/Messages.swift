// What the app and `edgepack serve` say to each other: docs/app_reports.md. The files in Tests/EdgepackKitTests/Fixtures are one of each.
import Foundation

/// A compute unit as reports name it; Core ML's `MLComputeUnits` on the device.
public enum ComputeUnit: String, Codable, CaseIterable, Sendable {
    case all = "all"
    case cpuAndNeuralEngine = "cpu_and_ne"
    case cpuAndGPU = "cpu_and_gpu"
    case cpuOnly = "cpu_only"
}

/// What the app says of itself and of the phone.
public struct AppFacts: Codable, Equatable, Sendable {
    public var platform = "ios"
    public var runtime = "coreml"
    public var version: String
    public var units: [ComputeUnit]
    public var app: String
    public var model: String
    public var system: String
    public var machine: String
    public var virtual: Bool
    public var debug: Bool
    public var cores: Int
    public var memoryGiB: Double
    public var tickNanoseconds: Double

    enum CodingKeys: String, CodingKey {
        case platform, runtime, version, units, app, model, system, machine, virtual, debug, cores
        case memoryGiB = "memory_gib"
        case tickNanoseconds = "tick_ns"
    }

    public init(
        version: String, units: [ComputeUnit], app: String, model: String, system: String, machine: String,
        virtual: Bool, debug: Bool, cores: Int, memoryGiB: Double, tickNanoseconds: Double
    ) {
        self.version = version
        self.units = units
        self.app = app
        self.model = model
        self.system = system
        self.machine = machine
        self.virtual = virtual
        self.debug = debug
        self.cores = cores
        self.memoryGiB = memoryGiB
        self.tickNanoseconds = tickNanoseconds
    }
}

/// `POST /visits`.
public struct Visit: Codable, Equatable, Sendable {
    public var app: AppFacts
    public var threads = 1

    public init(app: AppFacts) {
        self.app = app
    }
}

/// One output of all golden samples, stacked; little-endian.
public struct OutputTensor: Codable, Equatable, Sendable {
    public var name: String
    public var dtype: String
    public var shape: [Int]
    public var data: Data

    public init(name: String, dtype: String, shape: [Int], data: Data) {
        self.name = name
        self.dtype = dtype
        self.shape = shape
        self.data = data
    }
}

/// `POST /answers`: what one artifact gave for the golden inputs, or why it gave nothing.
public struct Answers: Codable, Equatable, Sendable {
    public var nonce: String
    public var threads = 1
    public var outputs: [OutputTensor]
    public var error: String

    public init(nonce: String, outputs: [OutputTensor] = [], error: String = "") {
        self.nonce = nonce
        self.outputs = outputs
        self.error = String(error.prefix(900))
    }
}

/// One artifact's part of an interleaved run; nanoseconds, `taken` and `starts` as little-endian float64.
public struct Series: Codable, Equatable, Sendable {
    public var subject: Int
    public var warmUp: [Double]
    public var inner: Int
    public var taken: Data
    public var starts: Data

    enum CodingKeys: String, CodingKey {
        case subject, inner, taken, starts
        case warmUp = "warm_up_ns"
    }

    public init(subject: Int, warmUp: [Double], inner: Int, taken: [Double], starts: [Double]) {
        self.subject = subject
        self.warmUp = warmUp
        self.inner = inner
        self.taken = littleEndian(taken)
        self.starts = littleEndian(starts)
    }
}

/// `POST /times`: an interleaved run, and what the phone was like meanwhile.
public struct Times: Codable, Equatable, Sendable {
    public var nonce: String
    public var threads = 1
    public var tickNanoseconds: Double
    public var series: [Series]
    public var hidden: Bool
    public var thermalStatus: Int?
    public var batterySaver: Bool
    public var error: String

    enum CodingKeys: String, CodingKey {
        case nonce, threads, series, hidden, error
        case tickNanoseconds = "tick_ns"
        case thermalStatus = "thermal_status"
        case batterySaver = "battery_saver"
    }

    public init(nonce: String, tickNanoseconds: Double, series: [Series] = [], conditions: Conditions, error: String = "") {
        self.nonce = nonce
        self.tickNanoseconds = tickNanoseconds
        self.series = series
        hidden = conditions.wasHidden
        thermalStatus = conditions.worstThermalStatus
        batterySaver = conditions.savedPower
        self.error = String(error.prefix(900))
    }
}

/// What spoils times, gathered during a run; thermal status in the numbers of android.os.PowerManager, which reports have.
public struct Conditions: Equatable, Sendable {
    public private(set) var wasHidden = false
    public private(set) var worstThermalStatus: Int?
    public private(set) var savedPower = false

    public init() {}

    /// One look. `thermalState` is the raw value of `ProcessInfo.ThermalState`: nominal, fair, serious, critical.
    public mutating func look(hidden: Bool, thermalState: Int, savesPower: Bool) {
        wasHidden = wasHidden || hidden
        savedPower = savedPower || savesPower
        let statuses = [0, 1, 3, 4]
        let status = statuses[min(max(thermalState, 0), statuses.count - 1)]
        worstThermalStatus = max(worstThermalStatus ?? 0, status)
    }
}

/// An input or output of an artifact; of an input also the shape of one sample.
public struct TensorPort: Codable, Equatable, Sendable {
    public var name: String
    public var dtype: String
    public var shape: [Int]
    public var permutation: [Int]
}

/// A file of an .mlpackage.
public struct PlannedFile: Codable, Equatable, Sendable {
    public var path: String
    public var bytes: Int
    public var sha256: String
}

/// An artifact on one compute unit.
public struct Subject: Codable, Equatable, Identifiable, Sendable {
    public var id: Int
    public var target: String
    public var scheme: String
    public var runner: String
    public var file: String
    public var bytes: Int
    public var sha256: String
    public var inputs: [TensorPort]
    public var outputs: [TensorPort]
    public var files: [PlannedFile]
    public var unit: String

    /// What Core ML is asked for.
    public var computeUnit: ComputeUnit? { ComputeUnit(rawValue: unit) }
}

/// How latency is taken: `edgepack.latency.protocol` and `edgepack.runner.contract`.
public struct TimingProtocol: Codable, Equatable, Sendable {
    public var profile: String
    public var warmUp: Int
    public var pairs: Int
    public var seconds: Double
    public var warmUpSeconds: Double
    public var window: Int
    public var fewestTicks: Int
    public var mostInner: Int

    enum CodingKeys: String, CodingKey {
        case profile, pairs, seconds, window
        case warmUp = "warm_up"
        case warmUpSeconds = "warm_up_seconds"
        case fewestTicks = "fewest_ticks"
        case mostInner = "most_inner"
    }
}

/// How pixels become numbers: `edgepack.student.spec.ImagePreprocessing`.
public struct Preprocessing: Codable, Equatable, Sendable {
    public var height: Int
    public var width: Int
    public var channels: Int
    public var resize: String
    public var interpolation: String
    public var mean: [Double]
    public var std: [Double]
    public var invert: Bool
    public var folded: Bool
}

/// What a live part needs; `kind` is "draw", "camera" or "none".
public struct Demo: Codable, Equatable, Sendable {
    public var kind: String
    public var labels: [String]
    public var preprocessing: Preprocessing?
    public var layout: String
}

/// `GET /plan.json`.
public struct Plan: Codable, Equatable, Sendable {
    public var student: String
    public var edgepack: String
    public var samples: Int
    public var threads: Int
    public var subjects: [Subject]
    public var leftOut: [String]
    public var timing: TimingProtocol
    public var demo: Demo

    enum CodingKeys: String, CodingKey {
        case student, edgepack, samples, threads, subjects, demo
        case leftOut = "left_out"
        case timing = "protocol"
    }
}

/// The step that is asked for, and the nonce it is good for.
public struct NextStep: Codable, Equatable, Sendable {
    public enum Kind: String, Codable, Sendable {
        case answers, times, done
    }

    public var kind: Kind
    public var nonce: String
    public var subjects: [Int]
}

/// How far one output is from the student; decibels nil where it is exact.
public struct OutputVerdict: Codable, Equatable, Sendable {
    public var name: String
    public var decibels: Double?
    public var floor: Double?
    public var nonFinite: Int

    enum CodingKeys: String, CodingKey {
        case name
        case decibels = "sqnr_db"
        case floor = "floor_db"
        case nonFinite = "non_finite"
    }
}

/// A latency in milliseconds: value, low and high end of its interval.
public struct TimeVerdict: Codable, Equatable, Sendable {
    public var p50: [Double]?
    public var p90: [Double]?
    public var ratio: [Double]?
    public var samples: Int
    public var inner: Int
    public var invalid: [String]
    public var warnings: [String]
}

/// To a post that was accepted.
public struct Reply: Codable, Equatable, Sendable {
    public var next: NextStep
    public var truth: String
    public var verdicts: [OutputVerdict]
    public var failures: [String]
    public var latencies: [String: TimeVerdict]
    public var kept: Int
}

/// To a visit that began.
public struct Began: Codable, Equatable, Sendable {
    public var device: [String: String]
    public var truth: String
    public var reply: Reply
}

/// To a request that was refused.
public struct Refusal: Codable, Error, Equatable, LocalizedError, Sendable {
    public var refused: String

    public init(refused: String) {
        self.refused = refused
    }

    public var errorDescription: String? { refused }
}
