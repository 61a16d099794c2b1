package dev.edgepack.core

import java.io.IOException
import java.net.HttpURLConnection
import java.net.URL
import java.security.MessageDigest
import java.security.cert.CertificateException
import java.security.cert.X509Certificate
import javax.net.ssl.HttpsURLConnection
import javax.net.ssl.SSLContext
import javax.net.ssl.X509TrustManager
import org.json.JSONException
import org.json.JSONObject

private const val CONNECT_MS = 10_000
// The server judges a run while the app waits: a bootstrap over two hundred thousand rounds takes seconds.
private const val READ_MS = 120_000

/** What `edgepack serve` says instead of an answer. */
class Refused(words: String) : IOException(words)

/** Somewhere to read a pack from and to post what was found. */
interface Exchange {
    fun get(path: String): ByteArray

    fun post(path: String, message: JSONObject): JSONObject
}

/** `edgepack serve`, once its address was opened. */
class Server private constructor(private val origin: String, private val cookie: String, private val pin: SSLContext?) : Exchange {
    override fun get(path: String): ByteArray = checked(connection(path))

    override fun post(path: String, message: JSONObject): JSONObject {
        val body = message.toString().toByteArray()
        val connection = connection(path).apply {
            requestMethod = "POST"
            doOutput = true
            setFixedLengthStreamingMode(body.size)
            setRequestProperty("Content-Type", "application/json")
            setRequestProperty("Origin", origin)
        }
        connection.outputStream.use { it.write(body) }
        return JSONObject(String(checked(connection), Charsets.UTF_8))
    }

    private fun connection(path: String) = opened("$origin$path", pin).apply { setRequestProperty("Cookie", cookie) }

    companion object {
        /**
         * Opens the address that `edgepack serve` shows, which works once.
         *
         * @param address "https://192.0.2.7:8000/open/TOKEN", or http with localhost (`edgepack serve --usb`).
         * @param fingerprint of the server's certificate, SHA-256 as it shows it; needed for https.
         * @throws Refused the address is used up. IOException: nothing answers, or the certificate is another.
         */
        fun open(address: String, fingerprint: String): Server {
            val url = URL(address.trim())
            if (url.protocol != "https" && url.host !in LOCAL) throw IOException("only https leaves this phone; serve without --no-tls, or with --usb")
            val pin = if (url.protocol == "https") pinned(fingerprint) else null
            val connection = opened(url.toString(), pin)
            if (connection.responseCode != HttpURLConnection.HTTP_SEE_OTHER) throw Refused(words(connection))
            val cookie = connection.getHeaderField("Set-Cookie")?.substringBefore(';') ?: throw Refused("this address was opened before")
            return Server("${url.protocol}://${url.authority}", cookie, pin)
        }
    }
}

private val LOCAL = setOf("localhost", "127.0.0.1")

private fun opened(address: String, pin: SSLContext?): HttpURLConnection = (URL(address).openConnection() as HttpURLConnection).apply {
    instanceFollowRedirects = false
    connectTimeout = CONNECT_MS
    readTimeout = READ_MS
    if (this is HttpsURLConnection && pin != null) {
        sslSocketFactory = pin.socketFactory
        // The certificate is the one that was read off the server's own screen: whatever name it has is the right one.
        setHostnameVerifier { _, _ -> true }
    }
}

private fun checked(connection: HttpURLConnection): ByteArray {
    if (connection.responseCode != HttpURLConnection.HTTP_OK) throw Refused(words(connection))
    return connection.inputStream.use { it.readBytes() }
}

private fun words(connection: HttpURLConnection): String {
    val body = connection.errorStream?.use { it.readBytes() }?.toString(Charsets.UTF_8).orEmpty()
    return try {
        JSONObject(body).getString("refused")
    } catch (_: JSONException) {
        "the server answers ${connection.responseCode}"
    }
}

/** TLS that trusts one certificate and no other. */
private fun pinned(fingerprint: String): SSLContext {
    val wanted = fingerprint.filter(Char::isLetterOrDigit).lowercase()
    if (!Regex("[0-9a-f]{64}").matches(wanted)) throw IOException("the fingerprint has 64 hexadecimal digits; edgepack serve shows it")
    return SSLContext.getInstance("TLS").apply { init(null, arrayOf(OneCertificate(wanted)), null) }
}

private class OneCertificate(private val sha256: String) : X509TrustManager {
    override fun checkServerTrusted(chain: Array<X509Certificate>, authType: String) {
        chain[0].checkValidity()
        if (!MessageDigest.isEqual(sha256(chain[0].encoded).toByteArray(), sha256.toByteArray())) {
            throw CertificateException("the server's certificate has another fingerprint: somebody else answers, or it was started again")
        }
    }

    override fun checkClientTrusted(chain: Array<X509Certificate>, authType: String) = throw CertificateException("this is no server")

    override fun getAcceptedIssuers(): Array<X509Certificate> = emptyArray()
}
