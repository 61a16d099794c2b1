import org.jetbrains.kotlin.gradle.dsl.JvmTarget

// Pure Kotlin on the JVM: whatever needs no phone, tested without one.
plugins {
    kotlin("jvm")
}

kotlin {
    jvmToolchain(17)
    compilerOptions {
        // Against Java 8's library: later ones have methods (ByteBuffer.rewind of its own) that Android 8 has not.
        jvmTarget = JvmTarget.JVM_1_8
        freeCompilerArgs.add("-Xjdk-release=8")
    }
}

java {
    sourceCompatibility = JavaVersion.VERSION_1_8
    targetCompatibility = JavaVersion.VERSION_1_8
}

// org.json is part of Android; these are Android's own sources of it, for compiling and for unit tests.
val json = "com.vaadin.external.google:android-json:0.0.20131108.vaadin1"

dependencies {
    compileOnly(json)
    testImplementation(json)
    testImplementation(kotlin("test-junit"))
}

tasks.test {
    // The JDK's HttpURLConnection drops the header "Origin", which Android's sends.
    systemProperty("sun.net.http.allowRestrictedHeaders", "true")
}
