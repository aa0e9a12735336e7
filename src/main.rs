fn main() -> std::process::ExitCode {
    warpweft::main()
}
