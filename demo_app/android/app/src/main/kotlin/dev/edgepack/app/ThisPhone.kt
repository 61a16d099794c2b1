package dev.edgepack.app

import android.app.ActivityManager
import android.content.Context
import android.content.pm.ApplicationInfo
import android.os.Build
import android.os.Debug
import android.os.PowerManager
import dev.edgepack.core.Conditions
import dev.edgepack.core.Phone
import dev.edgepack.core.Watch
import java.util.concurrent.Executor
import java.util.concurrent.atomic.AtomicInteger

private const val GIB = 1024.0 * 1024 * 1024
// How Android's emulators name their board.
private val EMULATORS = setOf("goldfish", "ranchu", "cutf_cvm", "cutf")

/** What `edgepack serve` is told of the phone. */
fun phone(context: Context): Phone {
    val memory = ActivityManager.MemoryInfo()
    (context.getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager).getMemoryInfo(memory)
    val version = context.packageManager.getPackageInfo(context.packageName, 0).versionName
    return Phone(
        app = "${context.packageName} $version",
        model = "${Build.MANUFACTURER} ${Build.MODEL}",
        system = "Android ${Build.VERSION.RELEASE}",
        machine = Build.SUPPORTED_ABIS[0],
        virtual = Build.HARDWARE in EMULATORS,
        debug = context.applicationInfo.flags and ApplicationInfo.FLAG_DEBUGGABLE != 0 || Debug.isDebuggerConnected(),
        cores = java.lang.Runtime.getRuntime().availableProcessors(),
        memoryGib = memory.totalMem / GIB,
    )
}

/** Watches heat and battery saver until it ends; [hidden] says whether the app was out of view meanwhile. */
fun watch(context: Context, hidden: () -> Boolean): Watch {
    val power = context.getSystemService(Context.POWER_SERVICE) as PowerManager
    val saver = power.isPowerSaveMode
    val heat = if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q) Heat(power) else null
    return Watch { Conditions(hidden(), heat?.end(), saver || power.isPowerSaveMode) }
}

/** The worst thermal status from its making to its [end]; Android tells it from version 10 on. */
private class Heat(private val power: PowerManager) {
    private val worst = AtomicInteger(power.currentThermalStatus)
    private val listener = PowerManager.OnThermalStatusChangedListener { status -> worst.accumulateAndGet(status, ::maxOf) }

    init {
        power.addThermalStatusListener(Executor(Runnable::run), listener)
    }

    fun end(): Int {
        power.removeThermalStatusListener(listener)
        return worst.accumulateAndGet(power.currentThermalStatus, ::maxOf)
    }
}
