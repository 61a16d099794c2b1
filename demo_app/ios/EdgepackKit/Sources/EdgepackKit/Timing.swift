// How latency is taken, as edgepack/runner/contract.py does it: settle, batches that span the clock's steps, A B B A. Nothing is dropped.
import Foundation

/// What is timed; throws what the runtime throws.
public typealias Query = () throws -> Void

/// Nanoseconds that never go back. The system's own is `DispatchTime`; tests bring one.
public protocol Clock {
    func now() -> UInt64
}

/// Of this device: it does not count sleep, and its steps are those of the processor's timer.
public struct SystemClock: Clock {
    public init() {}

    public func now() -> UInt64 { DispatchTime.now().uptimeNanoseconds }
}

/// Takes times by the protocol that the server asks for.
public struct Stopwatch<C: Clock> {
    /// Steps of the clock that are looked at, and reads until it is given up.
    private static var steps: Int { 16 }
    private static var reads: Int { 200_000 }
    /// Batches that are tried: the fastest of ten is a quiet one also on a busy phone.
    private static var tries: Int { 10 }
    /// A batch is made for twice as many steps as it must span: times it is chosen by are not the fastest that will come.
    private static var headroom: Double { 2 }

    public let clock: C
    public let asked: TimingProtocol

    public init(clock: C, asked: TimingProtocol) {
        self.clock = clock
        self.asked = asked
    }

    /// Nanoseconds between readings of the clock that differ, the smallest of some; 0 for a clock that does not move.
    public func tick() -> Double {
        var last = clock.now()
        var found: [UInt64] = []
        for _ in 0..<Self.reads where found.count < Self.steps {
            let now = clock.now()
            if now > last {
                found.append(now - last)
                last = now
            }
        }
        return Double(found.min() ?? 0)
    }

    /// At least the profile's warm-up, then more until times no longer fall or its time is over; nanoseconds of each query.
    public func settle(_ query: Query) throws -> [Double] {
        let until = clock.now() + UInt64(asked.warmUpSeconds * 1e9)
        var times = try (0..<asked.warmUp).map { _ in try time(query) }
        while asked.warmUpSeconds > 0, !isSettled(times, window: asked.window), clock.now() < until {
            times += try (0..<asked.window).map { _ in try time(query) }
        }
        return times
    }

    /// How many queries span enough steps of the clock: doubled until the fastest of some batches does.
    public func batchSize(_ query: Query, warmUp: [Double], tick: Double) throws -> Int {
        let needed = Self.headroom * Double(asked.fewestTicks) * tick
        var count = 1
        var fastest = warmUp.min() ?? needed
        while fastest < needed, count < asked.mostInner {
            count *= 2
            fastest = try (0..<Self.tries).map { _ in try time(query, count: count) }.min() ?? needed
        }
        return count
    }

    /// A B, B A, ...: for each query its nanoseconds and when each (batch) began, since the first, in the order taken.
    ///
    /// - Parameter look: called after each round, never inside one.
    public func interleave(_ queries: [Query], inner: [Int], look: (Int) -> Void = { _ in }) throws -> [(taken: [Double], starts: [Double])] {
        var found = queries.map { _ in (taken: [Double](), starts: [Double]()) }
        let begun = clock.now()
        let until = begun + UInt64(asked.seconds * 1e9)
        var rounds = 0
        while rounds < asked.pairs || clock.now() < until {
            let order = Array(queries.indices)
            for index in rounds % 2 == 0 ? order : order.reversed() {
                let start = clock.now()
                for _ in 0..<inner[index] { try queries[index]() }
                let end = clock.now()
                guard end >= start else { throw Refusal(refused: "the clock went back: no time of this run can be trusted") }
                found[index].starts.append(Double(start - begun))
                found[index].taken.append((Double(end - start) / Double(inner[index])).rounded(.down))
            }
            rounds += 1
            look(rounds)
        }
        return found
    }

    private func time(_ query: Query, count: Int = 1) throws -> Double {
        let start = clock.now()
        for _ in 0..<count { try query() }
        return Double(clock.now() - start)
    }
}

/// Whether the last window of times is no faster than the one before it (Mann and Whitney's statistic is not above its mean).
public func isSettled(_ times: [Double], window: Int) -> Bool {
    guard times.count >= 2 * window else { return false }
    let later = times.suffix(window)
    let earlier = times.dropLast(window).suffix(window)
    var slower = 0
    for one in earlier {
        for other in later { slower += one > other ? 1 : one < other ? -1 : 0 }
    }
    return slower <= 0
}
