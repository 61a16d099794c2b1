package dev.edgepack.app

import android.content.Context
import dev.edgepack.core.Artifact
import dev.edgepack.core.Check
import dev.edgepack.core.Listener
import dev.edgepack.core.OutputParity
import dev.edgepack.core.Pack
import dev.edgepack.core.Protocol
import dev.edgepack.core.Runtime
import dev.edgepack.core.Series
import dev.edgepack.core.Server
import dev.edgepack.core.Stopwatch
import dev.edgepack.core.Visit
import dev.edgepack.core.quantile

/** System.nanoTime is CLOCK_MONOTONIC; it stands still in deep sleep, which the screen that stays on rules out. */
private val CLOCK = System::nanoTime

/** Checks and times the pack that is served, and reports there; how many measurements the pack took. */
fun measureAt(address: String, fingerprint: String, runtime: Runtime, context: Context, hidden: () -> Boolean, listener: Listener): Int =
    Visit(Server.open(address, fingerprint), runtime, phone(context), CLOCK, { watch(context, hidden) }, listener).run()

/** Checks and times the pack in the app, for the screen alone. */
fun measureHere(pack: Pack, runtimes: Map<String, Runtime>, protocol: Protocol, listener: Listener) {
    val check = Check(pack)
    for (artifact in pack.runnable(runtimes.keys)) {
        val runtime = runtimes.getValue(artifact.runner)
        for (unit in runtime.units) {
            listener.started("${artifact.target} ${artifact.scheme} on $unit")
            listener.judged(found(check, artifact, runtime, unit, protocol, pack, listener))
        }
    }
}

private fun found(check: Check, artifact: Artifact, runtime: Runtime, unit: String, protocol: Protocol, pack: Pack, listener: Listener): String = try {
    runtime.open(pack.model(artifact), 1, unit).use { session ->
        val parity = check.parity(artifact, session)
        val failures = parity.map(OutputParity::failure).filter(String::isNotEmpty)
        // Wrong answers have no latency.
        if (failures.isNotEmpty()) failures.joinToString("\n") else line(parity, check.times(artifact, session, protocol, Stopwatch(CLOCK), listener::progress))
    }
} catch (error: Exception) {
    "does not run here: ${error.message}"
}

private fun line(parity: List<OutputParity>, series: Series): String {
    val decibels = parity.joinToString { if (it.sqnrDb.isInfinite()) "exact" else "%.1f dB".format(it.sqnrDb) }
    val times = listOf(0.5, 0.9, 0.99).mapNotNull { q -> quantile(series.taken, q)?.let { "p%d %.3f ms".format((100 * q).toInt(), it / 1e6) } }
    return "$decibels, ${times.joinToString()}"
}
