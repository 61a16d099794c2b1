import Foundation

/// What reaches the server: the app's URLSession, or a test's own.
public protocol Server {
    func get(_ path: String) async throws -> Data
    func post(_ path: String, _ body: Data) async throws -> Data
}

/// One artifact that is loaded on one compute unit.
public protocol Model: AnyObject {
    /// Take one sample of each input, by name, as bytes of the port's type, little-endian.
    func set(_ feed: [String: Data]) throws
    /// Predict; this is what is timed.
    func predict() throws
    /// The results of the last prediction, by output name, without a sample axis.
    func outputs() throws -> [OutputTensor]
}

/// What the measuring needs of the phone.
public protocol Device {
    associatedtype C: Clock

    var clock: C { get }
    /// Download, check and load an artifact on its compute unit.
    func open(_ subject: Subject, from server: Server) async throws -> Model
    /// One look at the phone: in view, warm, saving power.
    func look(_ conditions: inout Conditions)
}

/// What somebody who watches is told.
public enum Event: Sendable {
    case began(Began, Plan)
    case started(NextStep, [Subject])
    case judged([Subject], Reply)
}

/// Goes through all that the server asks: answers of each artifact on each unit, then times of those that were right.
public struct Measurer<D: Device> {
    private let server: Server
    private let device: D
    private let hear: (Event) -> Void

    public init(server: Server, device: D, hear: @escaping (Event) -> Void = { _ in }) {
        self.server = server
        self.device = device
        self.hear = hear
    }

    /// How many measurements the pack took.
    public func measure(_ facts: AppFacts) async throws -> Int {
        let began: Began = try await post("/visits", Visit(app: facts))
        let plan = try JSONDecoder().decode(Plan.self, from: try await server.get("/plan.json"))
        hear(.began(began, plan))
        let subjects = Dictionary(uniqueKeysWithValues: plan.subjects.map { ($0.id, $0) })
        var reply = began.reply
        var kept = 0
        while reply.next.kind != .done {
            let step = reply.next
            let asked = step.subjects.compactMap { subjects[$0] }
            guard !asked.isEmpty, asked.count == step.subjects.count else {
                throw Refusal(refused: "the server asks for what is not in its plan")
            }
            hear(.started(step, asked))
            reply = step.kind == .answers
                ? try await post("/answers", await answers(asked[0], plan, step.nonce))
                : try await post("/times", await times(asked, plan, step.nonce))
            kept += reply.kept
            hear(.judged(asked, reply))
        }
        return kept
    }

    private func post<Body: Encodable, Answer: Decodable>(_ path: String, _ body: Body) async throws -> Answer {
        try JSONDecoder().decode(Answer.self, from: try await server.post(path, try JSONEncoder().encode(body)))
    }

    /// What fails here is this artifact's failure, and is told as such.
    private func answers(_ subject: Subject, _ plan: Plan, _ nonce: String) async -> Answers {
        do {
            let model = try await device.open(subject, from: server)
            let golden = try await inputs(subject, plan)
            var collected: [String: OutputTensor] = [:]
            for index in 0..<plan.samples {
                try model.set(golden.mapValues { $0.sample(index) })
                try model.predict()
                for output in try model.outputs() { try stack(output, onto: &collected, samples: plan.samples) }
            }
            return Answers(nonce: nonce, outputs: try subject.outputs.map { try stacked($0.name, collected) })
        } catch {
            return Answers(nonce: nonce, error: words(error))
        }
    }

    private func stack(_ output: OutputTensor, onto collected: inout [String: OutputTensor], samples: Int) throws {
        guard var held = collected[output.name] else {
            collected[output.name] = OutputTensor(
                name: output.name, dtype: output.dtype, shape: [samples] + output.shape, data: output.data)
            return
        }
        guard held.dtype == output.dtype, Array(held.shape.dropFirst()) == output.shape else {
            throw Refusal(refused: "output '\(output.name)' changes its type or shape from sample to sample")
        }
        held.data.append(output.data)
        collected[output.name] = held
    }

    private func stacked(_ name: String, _ collected: [String: OutputTensor]) throws -> OutputTensor {
        guard let found = collected[name] else { throw Refusal(refused: "the model gives no output '\(name)'") }
        return found
    }

    private func inputs(_ subject: Subject, _ plan: Plan) async throws -> [String: GoldenInput] {
        var found: [String: GoldenInput] = [:]
        for (index, port) in subject.inputs.enumerated() {
            let data = try await server.get("/inputs/\(subject.id)/\(index)")
            found[port.name] = try GoldenInput(port: port, samples: plan.samples, data: data)
        }
        return found
    }

    private func times(_ subjects: [Subject], _ plan: Plan, _ nonce: String) async -> Times {
        let stopwatch = Stopwatch(clock: device.clock, asked: plan.timing)
        let tick = stopwatch.tick()
        var conditions = Conditions()
        device.look(&conditions)
        do {
            var queries: [Query] = []
            for subject in subjects {
                let model = try await device.open(subject, from: server)
                try model.set(try await inputs(subject, plan).mapValues { $0.sample(0) })
                queries.append(model.predict)
            }
            let warmUps = try queries.map(stopwatch.settle)
            let inner = try zip(queries, warmUps).map { try stopwatch.batchSize($0, warmUp: $1, tick: tick) }
            let taken = try stopwatch.interleave(queries, inner: inner) { _ in device.look(&conditions) }
            let series = subjects.indices.map { index in
                Series(
                    subject: subjects[index].id, warmUp: warmUps[index], inner: inner[index], taken: taken[index].taken,
                    starts: taken[index].starts)
            }
            return Times(nonce: nonce, tickNanoseconds: tick, series: series, conditions: conditions)
        } catch {
            return Times(nonce: nonce, tickNanoseconds: tick, conditions: conditions, error: words(error))
        }
    }
}

private func words(_ error: Error) -> String {
    (error as? LocalizedError)?.errorDescription ?? String(describing: error)
}
