import EdgepackKit
import SwiftUI

/// The address of `edgepack serve`, the fingerprint of its certificate, and what was found of each artifact on each compute unit.
struct ContentView: View {
    @StateObject private var bench = Bench()
    @AppStorage("fingerprint") private var fingerprint = ""
    @State private var address = ""

    var body: some View {
        NavigationStack {
            Form {
                Section("edgepack serve") {
                    TextField("https://192.0.2.7:8443/open/…", text: $address)
                        .textInputAutocapitalization(.never).autocorrectionDisabled().keyboardType(.URL)
                    TextField("SHA-256 fingerprint of its certificate", text: $fingerprint)
                        .textInputAutocapitalization(.never).autocorrectionDisabled()
                    Button(bench.isRunning ? "Measuring…" : "Measure") { bench.start(address: address, fingerprint: fingerprint) }
                        .disabled(bench.isRunning || address.isEmpty)
                }
                if !bench.status.isEmpty { Section { Text(bench.status) } }
                if let trouble = bench.trouble { Section { Text(trouble).foregroundStyle(.red) } }
                Section("Artifacts") { ForEach(bench.rows) { RowView(row: $0) } }
            }
            .navigationTitle(bench.student.isEmpty ? "edgepack" : bench.student)
        }
    }
}

private struct RowView: View {
    let row: Bench.Row

    var body: some View {
        VStack(alignment: .leading, spacing: 4) {
            HStack {
                Text("\(row.scheme) on \(row.unit)").font(.headline)
                Spacer()
                Text(row.state).foregroundStyle(row.isBad ? .red : .secondary)
            }
            if let labels = row.labels { Text(labels).font(.subheadline) }
            if let latency = row.latency { Text(latency).monospacedDigit() }
            ForEach(row.lines, id: \.self) { Text($0).font(.footnote).foregroundStyle(.secondary) }
        }
    }
}
