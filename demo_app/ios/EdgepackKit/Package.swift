// swift-tools-version:5.9
import PackageDescription

let package = Package(
    name: "EdgepackKit",
    platforms: [.iOS(.v17), .macOS(.v14)],
    products: [.library(name: "EdgepackKit", targets: ["EdgepackKit"])],
    targets: [
        .target(name: "EdgepackKit"),
        .testTarget(name: "EdgepackKitTests", dependencies: ["EdgepackKit"], resources: [.copy("Fixtures")]),
    ]
)
