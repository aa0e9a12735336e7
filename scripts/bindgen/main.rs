//! Binds a .wasm to JavaScript: bindgen INPUT FOLDER. The library alone builds in a third of the time of the command line tool.

use wasm_bindgen_cli_support::Bindgen;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, input, folder] = args.as_slice() else {
        eprintln!("bindgen INPUT FOLDER");
        std::process::exit(2);
    };
    let mut bindgen = Bindgen::new();
    let done = bindgen.input_path(input).typescript(true).out_name("engine").omit_default_module_path(true).web(true).and_then(|b| b.generate(folder));
    if let Err(e) = done {
        eprintln!("{e:?}");
        std::process::exit(1);
    }
}
