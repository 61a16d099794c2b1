package dev.edgepack.app

import androidx.activity.ComponentActivity
import androidx.camera.core.CameraSelector
import androidx.camera.core.ImageAnalysis
import androidx.camera.core.ImageProxy
import androidx.camera.core.Preview
import androidx.camera.lifecycle.ProcessCameraProvider
import androidx.camera.view.PreviewView
import androidx.core.content.ContextCompat
import dev.edgepack.core.Image
import java.util.concurrent.Executor

/** The back camera through CameraX: what it sees in [view], and the newest frame, upright, to [frame] on [worker]. */
class Camera(private val activity: ComponentActivity, private val view: PreviewView, private val worker: Executor, private val frame: (Image) -> Unit) {
    private var provider: ProcessCameraProvider? = null

    fun start() {
        val asked = ProcessCameraProvider.getInstance(activity)
        asked.addListener({ provider = asked.get().also(::bind) }, ContextCompat.getMainExecutor(activity))
    }

    fun stop() {
        provider?.unbindAll()
    }

    private fun bind(provider: ProcessCameraProvider) {
        val preview = Preview.Builder().build().apply { setSurfaceProvider(view.surfaceProvider) }
        val analysis = ImageAnalysis.Builder()
            .setBackpressureStrategy(ImageAnalysis.STRATEGY_KEEP_ONLY_LATEST)
            .setOutputImageFormat(ImageAnalysis.OUTPUT_IMAGE_FORMAT_RGBA_8888)
            .build()
        analysis.setAnalyzer(worker) { proxy -> proxy.use { frame(image(it)) } }
        provider.unbindAll()
        provider.bindToLifecycle(activity, CameraSelector.DEFAULT_BACK_CAMERA, preview, analysis)
    }
}

private fun image(proxy: ImageProxy): Image {
    val plane = proxy.planes[0]
    val rgba = ByteArray(plane.buffer.remaining()).also { plane.buffer.get(it) }
    return Image.ofRgba(rgba, proxy.width, proxy.height, plane.rowStride, proxy.imageInfo.rotationDegrees)
}
