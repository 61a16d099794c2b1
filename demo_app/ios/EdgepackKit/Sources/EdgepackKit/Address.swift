import Foundation

/// Where `edgepack serve` is, from the address that it shows: `https://192.0.2.7:8443/open/TOKEN`.
public struct ServerAddress: Equatable, Sendable {
    /// The address that opens once.
    public let opening: URL
    /// What posts name as their origin, exactly as the server knows itself.
    public let origin: String

    /// Throws `Refusal` for what is no such address.
    public init(_ text: String) throws {
        let words = text.trimmingCharacters(in: .whitespacesAndNewlines)
        guard let parts = URLComponents(string: words), let scheme = parts.scheme, let host = parts.host, let port = parts.port,
            ["http", "https"].contains(scheme), !host.isEmpty, parts.path.hasPrefix("/open/"), parts.path.count > "/open/".count,
            let opening = parts.url
        else {
            throw Refusal(refused: "this is no address of edgepack serve: type the whole of it, with /open/ and what follows")
        }
        self.opening = opening
        origin = "\(scheme)://\(host):\(port)"
    }

    /// An address of the server.
    public func url(_ path: String) -> URL {
        var parts = URLComponents(string: origin)!
        parts.path = path
        return parts.url!
    }
}

/// The SHA-256 fingerprint of a certificate, as `edgepack serve` shows it and a person types it.
public struct Fingerprint: Equatable, Sendable {
    private static let digits = 64

    public let hexadecimal: String

    /// Throws `Refusal` for what is none. Colons, spaces and case do not matter.
    public init(_ text: String) throws {
        let kept = text.lowercased().filter { !": \n\t".contains($0) }
        guard kept.count == Self.digits, kept.allSatisfy({ "0123456789abcdef".contains($0) }) else {
            throw Refusal(refused: "a SHA-256 fingerprint has 64 digits of 0 to 9 and a to f; this has \(kept.count) characters")
        }
        hexadecimal = kept
    }

    /// Of 32 bytes.
    public init(digest: some Sequence<UInt8>) throws {
        try self.init(digest.map { String(format: "%02x", $0) }.joined())
    }
}

/// Where a file of an .mlpackage is put below a folder; throws `Refusal` for a path that would leave it.
public func place(of file: PlannedFile, in folder: URL) throws -> URL {
    let parts = file.path.split(separator: "/", omittingEmptySubsequences: false)
    guard !parts.isEmpty, parts.allSatisfy({ !$0.isEmpty && $0 != "." && $0 != ".." && !$0.contains("\0") }) else {
        throw Refusal(refused: "'\(file.path)' is no path of a package")
    }
    return parts.reduce(folder) { $0.appendingPathComponent(String($1)) }
}
