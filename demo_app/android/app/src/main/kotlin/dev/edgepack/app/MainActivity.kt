package dev.edgepack.app

import android.Manifest
import android.os.Bundle
import android.view.View
import android.view.WindowManager
import android.widget.ArrayAdapter
import android.widget.Button
import android.widget.EditText
import android.widget.LinearLayout
import android.widget.ScrollView
import android.widget.Spinner
import android.widget.TextView
import androidx.activity.ComponentActivity
import androidx.activity.result.contract.ActivityResultContracts
import androidx.camera.view.PreviewView
import dev.edgepack.core.Artifact
import dev.edgepack.core.Image
import dev.edgepack.core.Listener
import dev.edgepack.core.Pack
import dev.edgepack.core.Protocol
import dev.edgepack.core.Runtime
import java.util.concurrent.Executors

private val RUNTIMES: Map<String, Runtime> = listOf(LiteRtRuntime, OrtRuntime).associateBy { it.runner }

private const val MEASURE = "Measure"

/** The one screen: what the camera sees and what the artifact says to it, and a button that measures. */
class MainActivity : ComponentActivity(), Listener {
    // Everything that computes is done here, one after the other: nothing is timed beside something else.
    private val worker = Executors.newSingleThreadExecutor()
    private lateinit var preview: PreviewView
    private lateinit var choice: Spinner
    private lateinit var answer: TextView
    private lateinit var address: EditText
    private lateinit var fingerprint: EditText
    private lateinit var button: Button
    private lateinit var log: TextView
    private var pack: Pack? = null
    private var artifacts = emptyList<Artifact>()
    private var live: Live? = null
    private var camera: Camera? = null

    @Volatile private var chosen: Artifact? = null
    @Volatile private var wasHidden = false

    private val permission = registerForActivityResult(ActivityResultContracts.RequestPermission()) { allowed ->
        if (allowed) camera?.start()
        else {
            camera = null
            answer.text = "The camera is not allowed; measuring works without it."
        }
    }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        window.addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON)
        setContentView(screen())
        worker.execute { attempt { opened(Pack.open { path -> assets.open("pack/$path") }) } }
    }

    override fun onPause() {
        super.onPause()
        wasHidden = true
    }

    override fun onDestroy() {
        super.onDestroy()
        worker.execute { live?.close() }
        worker.shutdown()
    }

    private fun opened(pack: Pack) {
        val runnable = pack.runnable(RUNTIMES.keys)
        runOnUiThread {
            this.pack = pack
            artifacts = runnable
            live = Live(pack, RUNTIMES)
            chosen = runnable.firstOrNull()
            choice.adapter = ArrayAdapter(this, android.R.layout.simple_spinner_dropdown_item, runnable.map { "${it.target} ${it.scheme}" })
            if (pack.preprocessing != null && runnable.isNotEmpty()) {
                camera = Camera(this, preview, worker, ::seen)
                permission.launch(Manifest.permission.CAMERA)
            } else {
                preview.visibility = View.GONE
            }
        }
    }

    /** On the worker. */
    private fun seen(image: Image) {
        val words = try {
            live?.answer(chosen ?: return, image)
        } catch (error: Exception) {
            error.message
        }
        runOnUiThread {
            answer.text = words
            chosen = artifacts.getOrNull(choice.selectedItemPosition)
        }
    }

    private fun measure() {
        val (at, pin, held) = Triple(address.text.toString(), fingerprint.text.toString(), pack)
        button.isEnabled = false
        camera?.stop()
        wasHidden = false
        worker.execute {
            live?.close()
            attempt {
                when {
                    at.isNotBlank() -> judged("${measureAt(at, pin, LiteRtRuntime, this, ::wasHidden, this)} measurements are in the pack")
                    held != null -> measureHere(held, RUNTIMES, Protocol.PROFILES.first { it.profile == "quick" }, this)
                    else -> judged("There is no pack in this app; give the address that edgepack serve shows.")
                }
            }
            runOnUiThread {
                button.isEnabled = true
                button.text = MEASURE
                camera?.start()
            }
        }
    }

    private fun attempt(work: () -> Unit) = try {
        work()
    } catch (error: Exception) {
        judged(error.message ?: error.javaClass.simpleName)
    }

    override fun started(step: String) = judged(step)

    override fun progress(share: Double) = runOnUiThread { button.text = "%.0f %%".format(100 * share) }

    override fun judged(words: String) = runOnUiThread { log.append("$words\n") }

    private fun screen(): View {
        preview = PreviewView(this)
        choice = Spinner(this)
        answer = TextView(this).apply { textSize = 20f }
        address = EditText(this).apply { hint = "address that edgepack serve shows; empty: measure here" }
        fingerprint = EditText(this).apply { hint = "its certificate's fingerprint, for https" }
        button = Button(this).apply { text = MEASURE }
        button.setOnClickListener { measure() }
        log = TextView(this)
        val column = LinearLayout(this).apply { orientation = LinearLayout.VERTICAL }
        val wide = LinearLayout.LayoutParams.MATCH_PARENT
        column.addView(preview, LinearLayout.LayoutParams(wide, resources.displayMetrics.heightPixels / 3))
        for (each in listOf(choice, answer, address, fingerprint, button, log)) column.addView(each)
        return ScrollView(this).apply {
            fitsSystemWindows = true
            addView(column)
        }
    }
}
