package dev.edgepack.core

import java.io.InputStream
import java.nio.ByteBuffer
import java.security.MessageDigest
import org.json.JSONArray
import org.json.JSONException
import org.json.JSONObject

/** The pack.json that this reads (`edgepack.pack.manifest.SCHEMA`). */
const val SCHEMA = 1

/** A pack that cannot be used: what is wrong, and what to do. */
class PackException(cause: String, next: String) : Exception("$cause; $next")

/** Where a pack lies: the app's assets, or a folder. */
fun interface PackFiles {
    /** A file by its path relative to the pack; throws IOException where there is none. */
    fun open(path: String): InputStream
}

// What the golden samples' file puts before an input's name (edgepack.calibration.readers).
private const val INPUT = "input:"

/** An input or output of an artifact: `artifact = transpose(hub, permutation)`. */
data class Binding(val name: String, val hubName: String, val dtype: Dtype, val permutation: List<Int>)

/** What one output must reach against the float64 run of the student; null: judged by accuracy alone, or never exact here. */
data class OutputFloor(val name: String, val decibels: Double?, val reason: String)

data class PackFile(val path: String, val bytes: Long, val sha256: String)

data class Artifact(
    val target: String,
    val platform: String,
    val scheme: String,
    val runner: String,
    val file: PackFile,
    val inputs: List<Binding>,
    val outputs: List<Binding>,
    val floors: List<OutputFloor>,
    val failures: List<String>,
) {
    /** The floor of an output by the student's name; PackException where the pack never judged it. */
    fun floor(hubName: String): OutputFloor =
        floors.find { it.name == hubName } ?: throw PackException("the pack judged no output '$hubName' of $target $scheme", "build it again")
}

/** What the app needs of a pack. */
class Pack(
    val files: PackFiles,
    val student: String,
    val preprocessing: Preprocessing?,
    val layout: String,
    val labels: List<String>,
    val artifacts: List<Artifact>,
    private val goldenInputs: PackFile,
    private val goldenReference: PackFile,
) {
    /** The golden samples' inputs, in the student's terms, stacked. */
    fun goldenInputs(): Map<String, Tensor> =
        readNpz(bytes(goldenInputs).inputStream()).filterKeys { it.startsWith(INPUT) }.mapKeys { (name, _) -> name.removePrefix(INPUT) }

    /** The float64 run of the student on them. */
    fun goldenReference(): Map<String, Tensor> = readNpz(bytes(goldenReference).inputStream())

    /** An artifact's bytes in direct memory, as runtimes take them. */
    fun model(artifact: Artifact): ByteBuffer {
        val bytes = bytes(artifact.file)
        return directBuffer(bytes.size).apply { put(bytes) }.apply { rewind() }
    }

    /** A file of the pack; PackException where it is not the one that was verified. */
    private fun bytes(file: PackFile): ByteArray {
        val bytes = files.open(file.path).use(InputStream::readBytes)
        if (sha256(bytes) != file.sha256) throw PackException("${file.path} is not the file that was verified", "copy the pack again")
        return bytes
    }

    /** Those that [runners] run and that passed their gate: wrong answers have no latency. */
    fun runnable(runners: Set<String>): List<Artifact> = artifacts.filter { it.runner in runners && it.failures.isEmpty() }

    companion object {
        /**
         * Reads pack.json.
         *
         * @throws PackException it is of another schema, or damaged.
         */
        fun open(files: PackFiles): Pack = try {
            parse(files, JSONObject(String(files.open("pack.json").use(InputStream::readBytes), Charsets.UTF_8)))
        } catch (error: JSONException) {
            throw PackException("pack.json cannot be read (${error.message})", "copy the pack again")
        }
    }
}

fun sha256(bytes: ByteArray): String = MessageDigest.getInstance("SHA-256").digest(bytes).joinToString("") { "%02x".format(it) }

private fun parse(files: PackFiles, manifest: JSONObject): Pack {
    val schema = manifest.getInt("schema")
    if (schema != SCHEMA) throw PackException("pack.json has schema $schema, this app reads $SCHEMA", "use the app of the edgepack that built it")
    val student = manifest.getJSONObject("student")
    val inputs = student.getJSONArray("inputs").objects()
    return Pack(
        files,
        student.getString("name"),
        student.optJSONObject("preprocessing")?.takeIf { inputs.size == 1 }?.let(::preprocessing),
        inputs.first().optString("layout").ifEmpty { "NCHW" },
        student.getJSONArray("labels").strings(),
        manifest.getJSONArray("artifacts").objects().map(::artifact),
        file(manifest.getJSONObject("golden_inputs")),
        file(manifest.getJSONObject("golden_reference")),
    )
}

private fun artifact(held: JSONObject) = Artifact(
    held.getString("target"),
    held.getString("platform"),
    held.getString("scheme"),
    held.getString("runner"),
    file(held.getJSONObject("file")),
    held.getJSONArray("inputs").objects().map(::binding),
    held.getJSONArray("outputs").objects().map(::binding),
    held.getJSONObject("parity").getJSONArray("outputs").objects().map(::floor),
    held.optJSONArray("failures")?.strings().orEmpty(),
)

private fun binding(held: JSONObject): Binding {
    val permutation = held.optJSONArray("permutation")?.let { axes -> List(axes.length(), axes::getInt) }.orEmpty()
    return Binding(held.getString("name"), held.getString("hub_name"), Dtype.named(held.getString("dtype")), permutation)
}

private fun floor(held: JSONObject) =
    OutputFloor(held.getString("name"), if (held.isNull("floor_db")) null else held.getDouble("floor_db"), held.optString("floor_reason"))

private fun file(held: JSONObject) = PackFile(held.getString("path"), held.getLong("bytes"), held.getString("sha256"))

private fun preprocessing(held: JSONObject) = Preprocessing(
    held.getInt("height"),
    held.getInt("width"),
    held.getInt("channels"),
    held.getString("resize"),
    held.getString("interpolation"),
    held.getJSONArray("mean").floats(),
    held.getJSONArray("std").floats(),
    held.getBoolean("invert"),
    held.optBoolean("folded"),
)

private fun JSONArray.objects(): List<JSONObject> = List(length(), ::getJSONObject)

private fun JSONArray.strings(): List<String> = List(length(), ::getString)

private fun JSONArray.floats(): List<Float> = List(length()) { getDouble(it).toFloat() }
