package dev.edgepack.core

import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.Base64
import org.json.JSONArray
import org.json.JSONObject

/** `edgepack.serve.messages` allows a thousand characters. */
private const val MOST_WORDS = 900

/** What the app says of itself and of the phone: `edgepack.serve.messages.App`. */
data class Phone(
    val app: String,
    val model: String,
    val system: String,
    val machine: String,
    val virtual: Boolean,
    val debug: Boolean,
    val cores: Int,
    val memoryGib: Double,
)

/** What went on during a run: the worst thermal status as android.os.PowerManager numbers it, null where it is not told. */
data class Conditions(val hidden: Boolean, val thermalStatus: Int?, val batterySaver: Boolean)

/** Watches the phone from its making until [end]. */
fun interface Watch {
    fun end(): Conditions
}

/** What the screen shows meanwhile. */
interface Listener {
    fun started(step: String)

    fun progress(share: Double)

    /** A line about what came of a step. */
    fun judged(words: String)
}

/** An artifact of the server's plan (`edgepack.serve.messages.SubjectPlan`). */
data class Subject(
    val id: Int,
    val target: String,
    val scheme: String,
    val file: String,
    val sha256: String,
    val unit: String,
    val inputs: List<Port>,
    val outputs: List<Port>,
) {
    val name: String get() = "$target $scheme on $unit"
}

/** [shape]: of one sample, of an input. */
data class Port(val name: String, val dtype: Dtype, val shape: List<Int>)

/**
 * A visit to `edgepack serve`: the server leads, each of its replies carries the next step and a nonce for it; this obeys. The server
 * judges the outputs and the times, and keeps what it finds in the pack.
 */
class Visit(
    private val server: Exchange,
    private val runtime: Runtime,
    private val phone: Phone,
    private val clock: Clock,
    private val watch: () -> Watch,
    private val listener: Listener,
) {
    private val stopwatch = Stopwatch(clock)
    private var threads = 1

    /** From the first step to the last; how many measurements the pack took. IOException, Refused or JSONException where it breaks off. */
    fun run(): Int {
        threads = json("/plan.json").getInt("threads").coerceIn(1, maxOf(1, phone.cores))
        var reply = server.post("/visits", JSONObject().put("app", said()).put("threads", threads)).getJSONObject("reply")
        val plan = json("/plan.json")
        val subjects = plan.getJSONArray("subjects").let { held -> List(held.length()) { subject(held.getJSONObject(it)) } }
        val protocol = protocol(plan.getJSONObject("protocol"))
        var kept = 0
        while (true) {
            val next = reply.getJSONObject("next")
            val asked = next.getJSONArray("subjects").let { ids -> List(ids.length()) { subjects[ids.getInt(it)] } }
            val post = when (val kind = next.getString("kind")) {
                "done" -> return kept
                "answers" -> answersOf(asked.single())
                "times" -> timesOf(asked, protocol)
                else -> throw Refused("the server asks for '$kind', which this app does not know; use the app of its version")
            }
            reply = server.post("/${next.getString("kind")}", post.put("nonce", next.getString("nonce")))
            kept += reply.optInt("kept")
            listener.judged(verdict(asked, reply))
        }
    }

    /** All golden samples through one artifact; what stops it is told to the server, and the visit goes on. */
    private fun answersOf(subject: Subject): JSONObject {
        listener.started("${subject.name}: golden samples")
        return try {
            opened(subject).use { session -> outputsOf(subject, answers(session, inputs(subject))) }
        } catch (error: Exception) {
            JSONObject().put("error", wordsOf(error))
        }.put("threads", threads)
    }

    private fun timesOf(subjects: List<Subject>, protocol: Protocol): JSONObject {
        listener.started("${subjects.joinToString { it.name }}: times")
        val (watching, sessions) = watch() to mutableListOf<Session>()
        val post = try {
            for (subject in subjects) sessions += opened(subject).apply { set(sampleOf(inputs(subject), 0)) }
            seriesOf(subjects, stopwatch.measure(sessions.map { it::invoke }, protocol, listener::progress))
        } catch (error: Exception) {
            JSONObject().put("error", wordsOf(error))
        } finally {
            sessions.forEach(Session::close)
        }
        val seen = watching.end()
        return post.put("threads", threads).put("tick_ns", stopwatch.step()).put("hidden", seen.hidden)
            .put("thermal_status", seen.thermalStatus ?: JSONObject.NULL).put("battery_saver", seen.batterySaver)
    }

    private fun opened(subject: Subject): Session {
        val content = server.get("/artifacts/${subject.sha256}")
        if (sha256(content) != subject.sha256) throw Refused("${subject.file} did not arrive as it was verified: its digest differs")
        return runtime.open(directBuffer(content.size).apply { put(content) }.apply { rewind() }, threads, subject.unit)
    }

    private fun inputs(subject: Subject): Map<String, Tensor> = subject.inputs.withIndex().associate { (index, port) ->
        val content = server.get("/inputs/${subject.id}/$index")
        val shape = listOf(content.size / (port.dtype.bytes * port.shape.product())) + port.shape
        port.name to Tensor(port.dtype, shape, directBuffer(content.size).apply { put(content) }.apply { rewind() })
    }

    private fun said() = JSONObject().put("platform", "android").put("runtime", runtime.runner).put("version", runtime.version)
        .put("units", JSONArray(runtime.units)).put("app", phone.app).put("model", phone.model).put("system", phone.system)
        .put("machine", phone.machine).put("virtual", phone.virtual).put("debug", phone.debug).put("cores", phone.cores)
        .put("memory_gib", phone.memoryGib).put("tick_ns", stopwatch.step())

    private fun json(path: String) = JSONObject(String(server.get(path), Charsets.UTF_8))
}

private fun outputsOf(subject: Subject, outputs: Map<String, Tensor>) = JSONObject().put("outputs", JSONArray(subject.outputs.map { port ->
    val tensor = outputs.getValue(port.name)
    JSONObject().put("name", port.name).put("dtype", tensor.dtype.numpyName).put("shape", JSONArray(tensor.shape)).put("data", base64(tensor.data))
}))

/** `edgepack.serve.messages.Series`: times as little-endian float64. */
fun seriesOf(subjects: List<Subject>, series: List<Series>) = JSONObject().put("series", JSONArray(subjects.zip(series) { subject, held ->
    JSONObject().put("subject", subject.id).put("warm_up_ns", JSONArray(held.warmUp.toList())).put("inner", held.inner)
        .put("taken", base64(held.taken)).put("starts", base64(held.starts))
}))

private fun base64(data: ByteBuffer): String =
    Base64.getEncoder().encodeToString(ByteArray(data.capacity()).also { data.duplicate().apply { rewind() }.get(it) })

private fun base64(nanoseconds: LongArray): String {
    val held = ByteBuffer.allocate(8 * nanoseconds.size).order(ByteOrder.LITTLE_ENDIAN)
    nanoseconds.forEach { held.putDouble(it.toDouble()) }
    return base64(held)
}

private fun wordsOf(error: Exception): String = (error.message ?: error.javaClass.simpleName).take(MOST_WORDS)

private fun subject(held: JSONObject) = Subject(
    held.getInt("id"),
    held.getString("target"),
    held.getString("scheme"),
    held.getString("file"),
    held.getString("sha256"),
    held.optString("unit").ifEmpty { "cpu" },
    ports(held.getJSONArray("inputs")),
    ports(held.getJSONArray("outputs")),
)

private fun ports(held: JSONArray) = List(held.length()) { index ->
    val port = held.getJSONObject(index)
    val shape = port.getJSONArray("shape")
    Port(port.getString("name"), Dtype.named(port.getString("dtype")), List(shape.length(), shape::getInt))
}

private fun protocol(held: JSONObject) = Protocol(
    held.getString("profile"),
    held.getInt("warm_up"),
    held.getInt("pairs"),
    held.getDouble("seconds"),
    held.getDouble("warm_up_seconds"),
)

/** A line of what the server made of a post. */
private fun verdict(asked: List<Subject>, reply: JSONObject): String {
    val name = asked.joinToString { it.name }
    val failures = reply.optJSONArray("failures")?.let { held -> List(held.length(), held::getString) }.orEmpty()
    val latencies = reply.optJSONObject("latencies") ?: JSONObject()
    return when {
        failures.isNotEmpty() -> "$name: ${failures.joinToString()}"
        latencies.length() > 0 -> asked.joinToString("\n") { "${it.name}: ${milliseconds(latencies, it)}" }
        else -> "$name: answers as the student does"
    }
}

/** The p50 of a subject in the reply, which holds (value, low, high) by subject. */
private fun milliseconds(latencies: JSONObject, subject: Subject): String {
    val held = latencies.optJSONObject(subject.id.toString()) ?: return "no time"
    val p50 = held.optJSONArray("p50") ?: return "${held.getInt("samples")} samples, too few"
    return "p50 %.3f ms (%.3f to %.3f)".format(p50.getDouble(0), p50.getDouble(1), p50.getDouble(2))
}
