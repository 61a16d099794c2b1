package dev.edgepack.core

/** Runs a pack's artifacts on its golden samples, and times those that answered rightly; without any server. */
class Check(private val pack: Pack) {
    private val golden = pack.goldenInputs()
    private val reference = pack.goldenReference()

    /** How far each output of an artifact is from the student here. */
    fun parity(artifact: Artifact, session: Session): List<OutputParity> {
        val outputs = answers(session, artifactFeed(golden, artifact.inputs))
        return artifact.outputs.map { binding -> parity(artifact, binding, outputs.getValue(binding.name)) }
    }

    private fun parity(artifact: Artifact, binding: Binding, output: Tensor): OutputParity {
        val expected = reference[binding.hubName] ?: throw PackException("the pack has no reference of '${binding.hubName}'", "build it again")
        return outputParity(expected, hubLayout(output, binding), artifact.floor(binding.hubName))
    }

    /** Times on the first golden sample. */
    fun times(artifact: Artifact, session: Session, protocol: Protocol, stopwatch: Stopwatch, progress: (Double) -> Unit = {}): Series {
        session.set(sampleOf(artifactFeed(golden, artifact.inputs), 0))
        return stopwatch.measure(listOf(session::invoke), protocol, progress).single()
    }
}
