package dev.edgepack.app

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import ai.onnxruntime.TensorInfo
import dev.edgepack.core.Dtype
import dev.edgepack.core.Runtime
import dev.edgepack.core.Session
import dev.edgepack.core.Tensor
import dev.edgepack.core.directBuffer
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** ONNX Runtime on the CPU: for packs that hold .onnx artifacts. Without those the app is smaller when this file and its dependency go. */
object OrtRuntime : Runtime {
    private val environment: OrtEnvironment by lazy { OrtEnvironment.getEnvironment() }
    override val runner = "ort"
    override val version: String get() = environment.version
    override val units = listOf("cpu")

    override fun open(model: ByteBuffer, threads: Int, unit: String): Session {
        require(unit in units) { "ONNX Runtime computes on the CPU here, not on '$unit'" }
        val options = OrtSession.SessionOptions().apply { setIntraOpNumThreads(threads) }
        return OrtRun(environment, options.use { environment.createSession(model, it) })
    }
}

private class OrtRun(private val environment: OrtEnvironment, private val session: OrtSession) : Session {
    private var feed = emptyMap<String, OnnxTensor>()
    private var results: OrtSession.Result? = null

    override fun set(feed: Map<String, Tensor>) {
        this.feed.values.forEach(OnnxTensor::close)
        this.feed = feed.mapValues { (_, tensor) ->
            val copy = directBuffer(tensor.data.capacity()).put(tensor.data.duplicate().apply { clear() })
            OnnxTensor.createTensor(environment, copy.apply { rewind() }, tensor.shape.map(Int::toLong).toLongArray(), javaType(tensor.dtype))
        }
    }

    override fun invoke() {
        results?.close()
        results = session.run(feed)
    }

    override fun outputs(): Map<String, Tensor> = results!!.associate { (name, value) -> name to tensor(value as OnnxTensor) }

    override fun close() {
        results?.close()
        feed.values.forEach(OnnxTensor::close)
        session.close()
    }
}

private fun tensor(value: OnnxTensor): Tensor {
    val info: TensorInfo = value.info
    // A copy in the runtime's byte order, little-endian on every ABI of Android.
    val held = value.byteBuffer.order(ByteOrder.nativeOrder())
    val copy = directBuffer(held.remaining()).put(held)
    return Tensor(dtype(info.type), info.shape.map(Long::toInt), copy.apply { rewind() })
}

private val TYPES = mapOf(
    OnnxJavaType.FLOAT to Dtype.FLOAT32,
    OnnxJavaType.DOUBLE to Dtype.FLOAT64,
    OnnxJavaType.INT8 to Dtype.INT8,
    OnnxJavaType.UINT8 to Dtype.UINT8,
    OnnxJavaType.INT16 to Dtype.INT16,
    OnnxJavaType.INT32 to Dtype.INT32,
    OnnxJavaType.INT64 to Dtype.INT64,
    OnnxJavaType.BOOL to Dtype.BOOL,
)

private fun dtype(type: OnnxJavaType): Dtype = TYPES[type] ?: throw IllegalArgumentException("outputs of type $type are not known here")

private fun javaType(dtype: Dtype): OnnxJavaType =
    TYPES.entries.find { it.value == dtype }?.key ?: throw IllegalArgumentException("ONNX Runtime for Java takes no ${dtype.numpyName}")
