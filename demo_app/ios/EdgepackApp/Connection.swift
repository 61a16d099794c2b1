import CryptoKit
import EdgepackKit
import Foundation

/// The way to `edgepack serve`: the address that opens once, its cookie, and a certificate that is held to the fingerprint a person typed.
final class Connection: NSObject, Server, URLSessionDelegate, @unchecked Sendable {
    private let address: ServerAddress
    private let pinned: Fingerprint?
    private lazy var session = URLSession(configuration: .ephemeral, delegate: self, delegateQueue: nil)

    init(address: ServerAddress, pinned: Fingerprint?) {
        self.address = address
        self.pinned = pinned
    }

    /// Come in: the answer leads to the page and sets the cookie, which the session keeps.
    func open() async throws {
        _ = try await answer(URLRequest(url: address.opening))
    }

    func get(_ path: String) async throws -> Data {
        try await answer(URLRequest(url: address.url(path)))
    }

    func post(_ path: String, _ body: Data) async throws -> Data {
        var request = URLRequest(url: address.url(path))
        request.httpMethod = "POST"
        request.httpBody = body
        request.setValue("application/json", forHTTPHeaderField: "Content-Type")
        request.setValue(address.origin, forHTTPHeaderField: "Origin")
        return try await answer(request)
    }

    private func answer(_ request: URLRequest) async throws -> Data {
        let (data, response) = try await session.data(for: request)
        guard let status = (response as? HTTPURLResponse)?.statusCode, status < 400 else {
            throw (try? JSONDecoder().decode(Refusal.self, from: data)) ?? Refusal(refused: "the server does not answer as edgepack serve does")
        }
        return data
    }

    /// The certificate was made for this run by `edgepack serve`: no authority vouches for it, the fingerprint does.
    func urlSession(
        _ session: URLSession, didReceive challenge: URLAuthenticationChallenge
    ) async -> (URLSession.AuthChallengeDisposition, URLCredential?) {
        guard challenge.protectionSpace.authenticationMethod == NSURLAuthenticationMethodServerTrust,
            let trust = challenge.protectionSpace.serverTrust
        else { return (.performDefaultHandling, nil) }
        guard let chain = SecTrustCopyCertificateChain(trust) as? [SecCertificate], let leaf = chain.first, let pinned,
            let found = try? Fingerprint(digest: SHA256.hash(data: SecCertificateCopyData(leaf) as Data)), found == pinned
        else { return (.cancelAuthenticationChallenge, nil) }
        return (.useCredential, URLCredential(trust: trust))
    }
}
