plugins {
    id("com.android.application")
    kotlin("android")
}

android {
    namespace = "dev.edgepack.app"
    compileSdk = 36

    defaultConfig {
        applicationId = "dev.edgepack.app"
        minSdk = 26
        targetSdk = 36
        versionCode = 1
        versionName = "1.0"
        // Phones; add "x86_64" for an emulator, whose times are no phone's.
        ndk { abiFilters += listOf("arm64-v8a") }
    }

    buildTypes {
        release {
            // Signed as debug builds are, so that it can be installed at once: times are taken with this one. A shop needs a key of yours.
            signingConfig = signingConfigs.getByName("debug")
        }
    }

    // Memory-mapped where they lie in the package: nothing is unpacked, and on devices with pages of 16 KB libraries are aligned to them.
    packaging { jniLibs.useLegacyPackaging = false }
    androidResources { noCompress += listOf("tflite", "onnx", "npz") }

    // `-Ppack=../../pack` takes a pack that edgepack built; else what lies in src/main/assets/pack.
    sourceSets["main"].assets.srcDir(layout.buildDirectory.dir("pack"))
}

val takePack by tasks.registering(Sync::class) {
    providers.gradleProperty("pack").orNull?.let { pack ->
        from(rootDir.resolve(pack)) {
            include("pack.json", "golden/inputs.npz", "golden/reference.npz", "**/model.tflite", "**/model.onnx")
            exclude("hub/**")
        }
    }
    into(layout.buildDirectory.dir("pack/pack"))
}

tasks.named("preBuild") { dependsOn(takePack) }

kotlin {
    jvmToolchain(17)
}

dependencies {
    implementation(project(":core"))
    // From 1.4.0 on its libraries are aligned to 16 KB; ONNX Runtime's from 1.22.
    implementation("com.google.ai.edge.litert:litert:1.4.0")
    implementation("com.google.ai.edge.litert:litert-gpu:1.4.0")
    implementation("com.microsoft.onnxruntime:onnxruntime-android:1.23.0")
    implementation("androidx.activity:activity:1.11.0")
    val camerax = "1.5.0"
    implementation("androidx.camera:camera-camera2:$camerax")
    implementation("androidx.camera:camera-lifecycle:$camerax")
    implementation("androidx.camera:camera-view:$camerax")
}
