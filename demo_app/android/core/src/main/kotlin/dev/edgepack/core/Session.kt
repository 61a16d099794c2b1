package dev.edgepack.core

import java.io.Closeable
import java.nio.ByteBuffer

/** One opened artifact. [set] and [outputs] copy; [invoke] is what gets timed. */
interface Session : Closeable {
    /** Takes one sample, by input name. */
    fun set(feed: Map<String, Tensor>)

    fun invoke()

    /** The results of the last [invoke], by output name. */
    fun outputs(): Map<String, Tensor>
}

/** What opens artifacts of one kind. */
interface Runtime {
    /** As pack.json names it: "litert" or "ort". */
    val runner: String
    val version: String

    /** Where it can compute on this device, the CPU first: "cpu", "gpu". */
    val units: List<String>

    /**
     * @param model the artifact's bytes in direct memory.
     * @param threads at least 1.
     * @param unit one of [units].
     */
    fun open(model: ByteBuffer, threads: Int, unit: String): Session
}

/** All samples that are stacked in [feed], one after the other; the outputs, stacked the same way. */
fun answers(session: Session, feed: Map<String, Tensor>): Map<String, Tensor> {
    val taken = List(feed.values.first().shape.first()) { index ->
        session.set(sampleOf(feed, index))
        session.invoke()
        session.outputs()
    }
    return taken.first().keys.associateWith { name -> Tensor.stacked(taken.map { it.getValue(name) }) }
}

fun sampleOf(feed: Map<String, Tensor>, index: Int): Map<String, Tensor> = feed.mapValues { (_, stacked) -> stacked.sample(index) }

/** Stacked samples in the student's terms -> in the artifact's: names, layouts, types. */
fun artifactFeed(samples: Map<String, Tensor>, bindings: List<Binding>): Map<String, Tensor> = bindings.associate { binding ->
    val stacked = samples[binding.hubName] ?: throw PackException("the pack has no golden samples of '${binding.hubName}'", "build it again")
    binding.name to stacked.transposed(stackedAxes(binding.permutation)).cast(binding.dtype)
}

/** A stacked artifact output in the student's layout. */
fun hubLayout(output: Tensor, binding: Binding): Tensor = output.transposed(stackedAxes(binding.permutation.inverse()))

/** A permutation of samples, for samples that are stacked on a new first axis. */
private fun stackedAxes(permutation: List<Int>): List<Int> = if (permutation.isEmpty()) permutation else listOf(0) + permutation.map { it + 1 }
