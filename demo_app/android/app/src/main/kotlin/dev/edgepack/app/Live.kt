package dev.edgepack.app

import dev.edgepack.core.Artifact
import dev.edgepack.core.Image
import dev.edgepack.core.Pack
import dev.edgepack.core.Runtime
import dev.edgepack.core.Session
import dev.edgepack.core.inverse
import dev.edgepack.core.likeliest

private const val RECENT = 25

/** Camera frames through one artifact of the pack; used on one thread. */
class Live(private val pack: Pack, private val runtimes: Map<String, Runtime>) : AutoCloseable {
    private var opened: Pair<Artifact, Session>? = null
    private val recent = ArrayDeque<Long>()

    /** What the artifact sees in a picture, and how long it takes: lines for the screen. */
    fun answer(artifact: Artifact, image: Image): String {
        val preprocessing = pack.preprocessing ?: return "this student takes no pictures"
        val session = session(artifact)
        val binding = artifact.inputs.single()
        session.set(mapOf(binding.name to preprocessing.sample(image, pack.layout).transposed(binding.permutation).cast(binding.dtype)))
        val start = System.nanoTime()
        session.invoke()
        recent.addLast(System.nanoTime() - start)
        if (recent.size > RECENT) recent.removeFirst()
        val first = artifact.outputs.first()
        val seen = likeliest(session.outputs().getValue(first.name).transposed(first.permutation.inverse()), pack.labels)
        val labels = seen.joinToString("\n") { "%s  %.1f %%".format(it.label, 100 * it.share) }
        return labels.ifEmpty { "${first.hubName} names no classes" } + "\n" + "%.2f ms".format(recent.sorted()[recent.size / 2] / 1e6)
    }

    private fun session(artifact: Artifact): Session {
        opened?.let { (held, session) -> if (held == artifact) return session }
        close()
        val runtime = runtimes.getValue(artifact.runner)
        return runtime.open(pack.model(artifact), threads = 1, unit = runtime.units.first()).also { opened = artifact to it }
    }

    override fun close() {
        opened?.second?.close()
        opened = null
        recent.clear()
    }
}
