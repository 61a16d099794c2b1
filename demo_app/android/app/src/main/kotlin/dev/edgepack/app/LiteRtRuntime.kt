package dev.edgepack.app

import dev.edgepack.core.Dtype
import dev.edgepack.core.Runtime
import dev.edgepack.core.Session
import dev.edgepack.core.Tensor
import dev.edgepack.core.directBuffer
import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.tensorflow.lite.DataType
import org.tensorflow.lite.Delegate
import org.tensorflow.lite.Interpreter
import org.tensorflow.lite.TensorFlowLite
import org.tensorflow.lite.gpu.CompatibilityList
import org.tensorflow.lite.gpu.GpuDelegate

// The signature that edgepack gives every .tflite it writes.
private const val SIGNATURE = "serving_default"
private const val CPU = "cpu"
private const val GPU = "gpu"

/** LiteRT's interpreter, with XNNPACK on the CPU or its own delegate on the GPU. */
object LiteRtRuntime : Runtime {
    override val runner = "litert"
    override val version: String get() = TensorFlowLite.runtimeVersion()
    override val units: List<String> by lazy {
        CompatibilityList().use { list -> if (list.isDelegateSupportedOnThisDevice) listOf(CPU, GPU) else listOf(CPU) }
    }

    /** The GPU's sessions are to be used on the thread that opened them. */
    override fun open(model: ByteBuffer, threads: Int, unit: String): Session {
        val delegate = when (unit) {
            CPU -> null
            GPU -> CompatibilityList().use { GpuDelegate(it.bestOptionsForThisDevice) }
            else -> throw IllegalArgumentException("LiteRT computes on $CPU or $GPU here, not on '$unit'")
        }
        val options = Interpreter.Options().setNumThreads(threads)
        delegate?.let(options::addDelegate)
        return LiteRtSession(Interpreter(model.order(ByteOrder.nativeOrder()), options), delegate)
    }
}

/** What is timed copies its input into the interpreter and its output out of it, as every use of the Java interface does. */
private class LiteRtSession(private val interpreter: Interpreter, private val delegate: Delegate?) : Session {
    private val inputs = interpreter.getSignatureInputs(SIGNATURE).associateWith { name ->
        directBuffer(interpreter.getInputTensorFromSignature(name, SIGNATURE).numBytes())
    }
    private val outputs = interpreter.getSignatureOutputs(SIGNATURE).associateWith { name ->
        directBuffer(interpreter.getOutputTensorFromSignature(name, SIGNATURE).numBytes())
    }
    private val given: Map<String, Any> = inputs
    private val taken: Map<String, Any> = outputs

    override fun set(feed: Map<String, Tensor>) {
        require(feed.keys == inputs.keys) { "inputs ${feed.keys} are not the artifact's ${inputs.keys}" }
        for ((name, tensor) in feed) {
            val wanted = interpreter.getInputTensorFromSignature(name, SIGNATURE)
            require(wanted.shape().toList() == tensor.shape && dtype(wanted.dataType()) == tensor.dtype) {
                "input '$name' is ${tensor.dtype.numpyName} ${tensor.shape}, not ${wanted.dataType()} ${wanted.shape().toList()}"
            }
            inputs.getValue(name).apply { clear() }.put(tensor.data.duplicate().apply { clear() })
            inputs.getValue(name).rewind()
        }
    }

    override fun invoke() {
        outputs.values.forEach(ByteBuffer::rewind)
        interpreter.runSignature(given, taken, SIGNATURE)
    }

    override fun outputs(): Map<String, Tensor> = outputs.mapValues { (name, buffer) ->
        val held = interpreter.getOutputTensorFromSignature(name, SIGNATURE)
        val copy = directBuffer(buffer.capacity()).put(buffer.duplicate().apply { clear() })
        Tensor(dtype(held.dataType()), held.shape().toList(), copy.apply { rewind() })
    }

    override fun close() {
        interpreter.close()
        delegate?.close()
    }
}

private fun dtype(type: DataType): Dtype = when (type) {
    DataType.FLOAT32 -> Dtype.FLOAT32
    DataType.INT32 -> Dtype.INT32
    DataType.UINT8 -> Dtype.UINT8
    DataType.INT64 -> Dtype.INT64
    DataType.BOOL -> Dtype.BOOL
    DataType.INT16 -> Dtype.INT16
    DataType.INT8 -> Dtype.INT8
    DataType.STRING -> throw IllegalArgumentException("an artifact of edgepack has no strings")
}
