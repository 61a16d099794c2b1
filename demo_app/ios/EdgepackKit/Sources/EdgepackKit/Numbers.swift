import Foundation

/// Types of tensors as numpy names them, with the bytes of one element.
public enum TensorType: String, Sendable {
    case float16, float32, float64, int32

    public var size: Int {
        switch self {
        case .float16: return 2
        case .float32, .int32: return 4
        case .float64: return 8
        }
    }
}

/// Numbers as float64, little-endian.
public func littleEndian(_ values: [Double]) -> Data {
    var data = Data(capacity: 8 * values.count)
    for value in values {
        withUnsafeBytes(of: value.bitPattern.littleEndian) { data.append(contentsOf: $0) }
    }
    return data
}

/// Numbers as float32, little-endian.
public func littleEndian(_ values: [Float]) -> Data {
    var data = Data(capacity: 4 * values.count)
    for value in values {
        withUnsafeBytes(of: value.bitPattern.littleEndian) { data.append(contentsOf: $0) }
    }
    return data
}

/// The golden samples of one input, stacked.
public struct GoldenInput: Equatable, Sendable {
    public let port: TensorPort
    public let type: TensorType
    private let data: Data

    /// Throws `Refusal` unless the bytes are `samples` samples of the port's shape and type.
    public init(port: TensorPort, samples: Int, data: Data) throws {
        guard let type = TensorType(rawValue: port.dtype) else {
            throw Refusal(refused: "input '\(port.name)' is \(port.dtype), which Core ML does not take")
        }
        let expected = samples * port.shape.reduce(1, *) * type.size
        guard samples > 0, data.count == expected else {
            throw Refusal(refused: "input '\(port.name)' has \(data.count) bytes, not \(expected)")
        }
        self.port = port
        self.type = type
        self.data = data
    }

    /// The bytes of one sample, little-endian.
    public func sample(_ index: Int) -> Data {
        let size = port.shape.reduce(1, *) * type.size
        let start = data.startIndex + index * size
        return data.subdata(in: start..<(start + size))
    }
}

/// Elements of an array with strides, in the order of C, as bytes: Core ML pads rows, so that its buffers are not contiguous.
public func packed(_ buffer: UnsafeRawBufferPointer, shape: [Int], strides: [Int], size: Int) -> Data {
    let count = shape.reduce(1, *)
    var data = Data(capacity: count * size)
    var index = [Int](repeating: 0, count: shape.count)
    for _ in 0..<count {
        let offset = zip(index, strides).reduce(0) { $0 + $1.0 * $1.1 } * size
        data.append(contentsOf: buffer[offset..<(offset + size)])
        for axis in shape.indices.reversed() {
            index[axis] += 1
            if index[axis] < shape[axis] { break }
            index[axis] = 0
        }
    }
    return data
}

/// Signal over noise in decibels, 10 log10(sum reference^2 / sum error^2): nil where both are equal, -infinity where one is not finite.
public func decibels(reference: [Double], actual: [Double]) -> Double? {
    precondition(reference.count == actual.count, "arrays of two lengths cannot be compared")
    guard actual.allSatisfy(\.isFinite) else { return -.infinity }
    let noise = zip(reference, actual).reduce(0.0) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) }
    if noise == 0 { return nil }
    return 10 * log10(reference.reduce(0.0) { $0 + $1 * $1 } / noise)
}

/// The q-quantile by linear interpolation between order statistics (numpy's default; Hyndman and Fan's type 7); nil of nothing.
public func quantile(_ q: Double, of values: [Double]) -> Double? {
    guard !values.isEmpty else { return nil }
    let sorted = values.sorted()
    let place = q * Double(sorted.count - 1)
    let below = Int(place.rounded(.down))
    let above = min(below + 1, sorted.count - 1)
    return sorted[below] + (place - Double(below)) * (sorted[above] - sorted[below])
}

/// (label, probability) of the likeliest classes of one row of scores, by softmax.
public func likeliest(_ scores: [Double], labels: [String], count: Int = 3) -> [(label: String, probability: Double)] {
    guard scores.count == labels.count, let most = scores.max(), most.isFinite else { return [] }
    let exponents = scores.map { exp($0 - most) }
    let sum = exponents.reduce(0, +)
    return zip(labels, exponents).map { (label: $0.0, probability: $0.1 / sum) }
        .sorted { $0.probability > $1.probability }.prefix(count).map { $0 }
}
