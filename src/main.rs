fn main() -> std::process::ExitCode {
    warpweft::cli::main()
}
