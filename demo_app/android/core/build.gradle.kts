// Pure Kotlin on the JVM: whatever needs no phone, tested without one.
plugins {
    kotlin("jvm")
}

kotlin {
    jvmToolchain(17)
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
