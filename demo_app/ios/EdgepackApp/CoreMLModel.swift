import CoreML
import EdgepackKit
import Foundation

/// One .mlpackage, compiled on the phone and loaded on one kind of compute units.
final class CoreMLModel: Model {
    private let model: MLModel
    private let subject: Subject
    private let hear: (Subject, [Double]) -> Void
    private var feed: MLFeatureProvider?
    private var results: MLFeatureProvider?

    init(package: URL, subject: Subject, unit: ComputeUnit, hear: @escaping (Subject, [Double]) -> Void) async throws {
        let configuration = MLModelConfiguration()
        configuration.computeUnits = unit.ofCoreML
        let compiled = try await MLModel.compileModel(at: package)
        defer { try? FileManager.default.removeItem(at: compiled) }
        model = try MLModel(contentsOf: compiled, configuration: configuration)
        self.subject = subject
        self.hear = hear
    }

    func set(_ sample: [String: Data]) throws {
        var features: [String: MLFeatureValue] = [:]
        for port in subject.inputs {
            guard let data = sample[port.name] else { throw Refusal(refused: "input '\(port.name)' is missing") }
            if let constraint = model.modelDescription.inputDescriptionsByName[port.name]?.imageConstraint {
                features[port.name] = try image(data, port, constraint)
            } else {
                features[port.name] = MLFeatureValue(multiArray: try array(data, port))
            }
        }
        feed = try MLDictionaryFeatureProvider(dictionary: features)
    }

    func predict() throws {
        guard let feed else { throw Refusal(refused: "no sample was set") }
        results = try model.prediction(from: feed)
    }

    func outputs() throws -> [OutputTensor] {
        let found = try subject.outputs.map { port in
            guard let array = results?.featureValue(for: port.name)?.multiArrayValue else {
                throw Refusal(refused: "the model gives no multi-array '\(port.name)'")
            }
            return try tensor(array, port)
        }
        if let scores = results?.featureValue(for: subject.outputs[0].name)?.multiArrayValue {
            hear(subject, (0..<scores.count).map { scores[$0].doubleValue })
        }
        return found
    }

    private func array(_ data: Data, _ port: TensorPort) throws -> MLMultiArray {
        let array = try MLMultiArray(shape: port.shape.map(NSNumber.init), dataType: try tensorType(port.dtype).ofCoreML)
        array.withUnsafeMutableBytes { buffer, _ in _ = data.copyBytes(to: buffer) }
        return array
    }

    /// In the type that the plan names; Core ML may give another (float16 for float32), and its buffers have strides.
    private func tensor(_ array: MLMultiArray, _ port: TensorPort) throws -> OutputTensor {
        let wanted = try tensorType(port.dtype)
        let given = array.dataType == wanted.ofCoreML ? array : try converted(array, to: wanted)
        let shape = given.shape.map(\.intValue)
        let data = given.withUnsafeBytes { packed($0, shape: shape, strides: given.strides.map(\.intValue), size: wanted.size) }
        return OutputTensor(name: port.name, dtype: port.dtype, shape: shape, data: data)
    }

    private func converted(_ array: MLMultiArray, to type: TensorType) throws -> MLMultiArray {
        let result = try MLMultiArray(shape: array.shape, dataType: type.ofCoreML)
        for index in 0..<array.count { result[index] = array[index] }
        return result
    }

    /// Golden pixels are numbers 0 to 255 of shape (1, channels, height, width).
    private func image(_ data: Data, _ port: TensorPort, _ constraint: MLImageConstraint) throws -> MLFeatureValue {
        let values = data.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
        let (channels, height, width) = (port.shape[1], port.shape[2], port.shape[3])
        let format = channels == 1 ? kCVPixelFormatType_OneComponent8 : kCVPixelFormatType_32BGRA
        var created: CVPixelBuffer?
        CVPixelBufferCreate(nil, width, height, format, nil, &created)
        guard let buffer = created, constraint.pixelsWide == width, constraint.pixelsHigh == height else {
            throw Refusal(refused: "input '\(port.name)' cannot be made an image of \(width) x \(height)")
        }
        CVPixelBufferLockBaseAddress(buffer, [])
        defer { CVPixelBufferUnlockBaseAddress(buffer, []) }
        guard let base = CVPixelBufferGetBaseAddress(buffer)?.assumingMemoryBound(to: UInt8.self) else {
            throw Refusal(refused: "input '\(port.name)' has no pixels to write to")
        }
        let stride = CVPixelBufferGetBytesPerRow(buffer)
        for row in 0..<height {
            for column in 0..<width {
                let value = { (channel: Int) in UInt8(values[(channel * height + row) * width + column]) }
                guard channels > 1 else {
                    base[row * stride + column] = value(0)
                    continue
                }
                let pixel = base + row * stride + 4 * column
                (pixel[0], pixel[1], pixel[2], pixel[3]) = (value(2), value(1), value(0), 255)
            }
        }
        return MLFeatureValue(pixelBuffer: buffer)
    }

    private func tensorType(_ name: String) throws -> TensorType {
        guard let type = TensorType(rawValue: name) else { throw Refusal(refused: "Core ML has no multi-arrays of \(name)") }
        return type
    }
}

extension ComputeUnit {
    var ofCoreML: MLComputeUnits {
        switch self {
        case .all: return .all
        case .cpuAndNeuralEngine: return .cpuAndNeuralEngine
        case .cpuAndGPU: return .cpuAndGPU
        case .cpuOnly: return .cpuOnly
        }
    }
}

extension TensorType {
    var ofCoreML: MLMultiArrayDataType {
        switch self {
        case .float16: return .float16
        case .float32: return .float32
        case .float64: return .double
        case .int32: return .int32
        }
    }
}
