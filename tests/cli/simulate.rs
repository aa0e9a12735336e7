//! `simulate` and `validate` as a user runs them.

use super::{device, tiny, warpweft};
use crate::common::Folder;
use crate::common::tiny::Tiny;
use serde_json::Value as Json;

fn json(args: &[&str]) -> Json {
    let said = warpweft(&[args, &["--json"]].concat());
    assert_eq!(said.code, Some(0), "{}", said.err);
    serde_json::from_str(&said.out).unwrap()
}

fn refused(args: &[&str]) -> String {
    let said = warpweft(&[&["simulate"], args].concat());
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{}", said.err);
    said.err
}

#[test]
fn a_plan_is_priced_with_the_counts_that_plan_prints() {
    let (_folder, path) = tiny(Tiny::default());
    let priced = json(&["simulate", &path, "--cluster", "dgx-h100", "--plan", "--mesh", "tp=2", "--past", "31"]);
    let planned = warpweft(&["plan", &path, "--floor", "--mesh", "tp=2"]);
    let last = planned.out.lines().last().unwrap();
    let messages: u64 = last.split(" in ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(messages > 0 && priced["messages"] == messages, "{last} {}", priced["messages"]);
    assert_eq!((priced["ranks"].as_array().unwrap().len(), priced["cache_tokens"].as_f64()), (2, Some(32.0)));
    assert!(priced["step_seconds"].as_f64().unwrap() > 0.0 && priced["flops"].as_u64().unwrap() > 0);
    let text = warpweft(&["simulate", &path, "--cluster", "dgx-h100", "--plan", "--step", "5"]).out;
    for part in [
        "the plan of a step of 5 tokens, 5 in the cache after it",
        "computed ",
        " FLOP in ",
        "memory of the fullest rank (0 of 1)",
        "of 80 GiB: fits",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_training_step_is_planned_and_priced_from_sizes_alone() {
    let at = |more: &[&str]| {
        json(
            &[
                &[
                    "simulate",
                    "llama-3-8b",
                    "--layers",
                    "2",
                    "--cluster",
                    "dgx-h100",
                    "--plan",
                    "--train",
                    "--seq",
                    "256",
                ],
                more,
            ]
            .concat(),
        )
    };
    let (one, spread) = (at(&[]), at(&["--mesh", "dp=2,tp=4", "--zero", "3"]));
    // Each of two replicas takes a sequence; tensor ranks share its products, six operations a parameter and token and more.
    let flops = |v: &Json| v["flops"].as_f64().unwrap();
    assert!((flops(&spread) / flops(&one) - 2.0).abs() < 0.1, "{} {}", flops(&spread), flops(&one));
    assert!(flops(&one) > 6.0 * 256.0 * (2.0 * 218e6 + 525e6), "{}", flops(&one));
    assert_eq!(
        (one["messages"].as_u64(), one["tokens"].as_f64(), spread["tokens"].as_f64()),
        (Some(0), Some(256.0), Some(512.0))
    );
    let bytes = |v: &Json, key: &str| v["memory"][0][key].as_f64().unwrap();
    // Micro-batches add up; layers that are computed again do so once more, but for the head.
    let (four, again) = (at(&["--global-batch", "4"]), at(&["--recompute", "full"]));
    assert!((flops(&four) / flops(&one) - 4.0).abs() < 0.1 && four["tokens"] == 1024.0, "{}", flops(&four));
    let more = flops(&again) / flops(&one) - 1.0;
    assert!(more > 0.08 && more < 1.0 / 3.0, "{more}");
    // AdamW has two moments a parameter; ZeRO 3 and tensor ranks share all three, but for norms, which tensor ranks hold whole.
    assert_eq!(bytes(&one, "optimiser_bytes"), 2.0 * bytes(&one, "parameters_bytes"));
    assert!((bytes(&one, "parameters_bytes") / bytes(&spread, "parameters_bytes") - 8.0).abs() < 0.01);
    let kinds: Vec<&str> =
        spread["collectives"].as_array().unwrap().iter().map(|c| c["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["all-gather", "all-reduce", "reduce-scatter"]);
    let plan = ["--cluster", "dgx-h100", "--plan", "--train"];
    let told = [
        refused(&[&["mixtral-8x7b"], &plan[..]].concat()),
        refused(&[&["llama-3-8b", "--recompute", "selective"], &plan[..]].concat()),
        refused(&[&["llama-3-8b", "--mesh", "cp=2"], &plan[..]].concat()),
        refused(&[&["llama-3-8b", "--zero", "4"], &plan[..]].concat()),
        refused(&[&["llama-3-8b", "--seq", "99999999"], &plan[..]].concat()),
        refused(&[&["llama-3-8b", "--micro-batch", "2", "--global-batch", "7"], &plan[..]].concat()),
        refused(&[&["llama-3-8b", "--layers", "60000"], &plan[..]].concat()),
        refused(&[&["llama-3-8b", "--mesh", "dp=16777216"], &plan[..]].concat()),
        refused(&[&["llama-3-8b", "--micro-batch", "0"], &plan[..]].concat()),
        refused(&["llama-3-8b", "--cluster", "dgx-h100", "--micro-batch", "0"]),
        refused(&["llama-3-8b", "--cluster", "dgx-h100", "--micro-batch", "18446744073709551615"]),
        refused(&["llama-3-8b", "--cluster", "dgx-h100", "--plan", "--layers", "2"]),
    ];
    insta::assert_snapshot!(told.concat());
}

#[test]
fn traces_and_pages_are_whole_and_compare() {
    let (_folder, path) = tiny(Tiny::default());
    let out = Folder::new("simulate");
    let at = |name: &str| out.path().join(name).display().to_string();
    let cases: [&[&str]; 4] = [
        &["simulate", &path, "--cluster", "dgx-h100", "--plan"],
        &["simulate", &path, "--cluster", "dgx-h100", "--plan", "--mesh", "tp=2"],
        &["simulate", "gpt3-22b", "--cluster", "dgx-a100", "--mesh", "pp=2,tp=4", "--global-batch", "8"],
        &["simulate", "llama-3-8b", "--cluster", "dgx-h100", "--serve", "continuous"],
    ];
    for args in cases {
        let said = warpweft(&[args, &["--trace", &at("t.json"), "--html", &at("p.html")]].concat());
        assert_eq!(said.code, Some(0), "{}", said.err);
        let page = std::fs::read_to_string(at("p.html")).unwrap();
        for part in
            ["<!doctype html>", "Timeline", "Where the time goes", "Roofline", "Memory", "prefers-color-scheme: dark"]
        {
            assert!(page.contains(part), "{args:?}: {part}");
        }
        assert_eq!(
            (page.matches("<svg").count(), page.contains("http"), page.contains("NaN")),
            (4, false, false),
            "{args:?}: a page stands alone"
        );
        let beside = warpweft(&[args, &["--compare", &at("t.json")]].concat());
        let rows: Vec<&str> = beside.out.lines().skip_while(|l| !l.starts_with("op ")).skip(1).collect();
        assert!(
            rows.len() >= 2 && rows.iter().all(|l| l.ends_with(" +0 %") || l.ends_with(" -0 %")),
            "{args:?}: {}",
            beside.out
        );
    }
    let bad = out.file("bad.json", "{}").display().to_string();
    assert!(refused(&[&path, "--cluster", "dgx-h100", "--plan", "--compare", &bad]).contains("it lacks traceEvents"));
}

#[test]
fn sizes_are_read_from_a_config_or_a_header_without_weights() {
    let folder = Folder::new("shapes");
    let config = r#"{"model_type":"mixtral","hidden_size":4096,"intermediate_size":14336,"num_hidden_layers":32,"num_attention_heads":32,"num_key_value_heads":8,"vocab_size":32000,"num_local_experts":8,"num_experts_per_tok":2}"#;
    folder.file("config.json", config);
    let whole = folder.path().display().to_string();
    let args = ["--cluster", "dgx-h100", "--nodes", "2", "--mesh", "ep=8,dp=2"];
    let by_config = json(&[&["simulate", whole.as_str()], &args[..]].concat());
    let by_name = json(&[&["simulate", "mixtral-8x7b"], &args[..]].concat());
    assert_eq!(by_config["step_seconds"], by_name["step_seconds"]);
    let bytes = Tiny { layers: 4, ffn: 512, ..Tiny::default() }.gguf().bytes();
    let head = folder.file("head.gguf", &bytes[..bytes.len() / 2]).display().to_string();
    let full = folder.file("full.gguf", &bytes).display().to_string();
    let tokens = |path: &str| {
        json(&["simulate", path, "--cluster", "pcie-8", "--serve", "decode", "--mesh", "tp=1"])["tokens_per_second"]
            .clone()
    };
    assert_eq!(tokens(&head), tokens(&full));
    let cut = folder.file("cut.gguf", &bytes[..200]).display().to_string();
    assert!(refused(&[&cut, "--cluster", "pcie-8"]).contains("cut.gguf"));
}

#[test]
fn what_cannot_be_is_told_with_the_nearest_that_can() {
    let told = [
        refused(&["llama-3-405b", "--cluster", "dgx-h100"]),
        refused(&["llama-3-8b", "--cluster", "dgx-h100", "--mesh", "tp=2"]),
        refused(&["llama-3-8b", "--cluster", "dgx-h100", "--mesh", "tp=8,dp=4"]),
        refused(&["gpt-j-6b", "--cluster", "dgx-v100", "--mesh", "tp=3,dp=5"]),
        refused(&["llama-3-8b", "--cluster", "dgx-h100", "--serve", "continuous", "--load", "1e6"])
            .split(": up to")
            .next()
            .unwrap()
            .to_string()
            + "\n",
        refused(&["llama-3-8b"]),
        refused(&["lama-3-8b", "--cluster", "dgx-h100"]).split(": there are").next().unwrap().to_string() + "\n",
    ];
    insta::assert_snapshot!(told.concat());
    // The layout that it names does fit.
    let near = told[0].split("per device; ").nth(1).unwrap().split(" does").next().unwrap();
    let args: Vec<&str> = near.split(' ').collect();
    let step = json(&[&["simulate", "llama-3-405b", "--cluster", "dgx-h100"], &args[..]].concat());
    assert!(step["step_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(warpweft(&["simulate", "llama-3-405b", "--cluster", "dgx-h100", "--anyway"]).code, Some(0));
}

#[test]
fn a_load_between_nothing_and_all_is_answered() {
    let at = |load: &str| {
        json(&[
            "simulate",
            "llama-3-8b",
            "--cluster",
            "dgx-h100",
            "--mesh",
            "tp=1,dp=8",
            "--serve",
            "continuous",
            "--load",
            load,
        ])
    };
    let (light, heavy) = (at("1"), at("100"));
    let number = |v: &Json, key: &str| v[key].as_f64().unwrap();
    // As many tokens as are asked for: 256 an answer.
    assert!(
        (number(&light, "tokens_per_second") - 256.0).abs() < 1.0
            && (number(&heavy, "tokens_per_second") - 25600.0).abs() < 30.0,
        "{light} {heavy}"
    );
    for key in ["between_tokens_seconds", "first_token_seconds", "busy"] {
        assert!(number(&light, key) < number(&heavy, key), "{key}: {light} {heavy}");
    }
}

#[test]
fn the_adapter_at_hand_is_predicted_and_run() {
    let Some(index) = device() else { return };
    let (_folder, path) = tiny(Tiny::default());
    let said = json(&["simulate", &path, "--here", "--device", &index, "--rounds", "2", "--step", "8"]);
    let steps = said["steps"].as_array().unwrap();
    assert_eq!(
        steps.iter().map(|s| s["step"].as_str().unwrap()).collect::<Vec<_>>(),
        ["read 8 tokens", "decode after 8"]
    );
    for s in steps {
        // How near they are is a figure of benches/README.md: here they are of one kind.
        let (p, m) = (s["predicted_seconds"].as_f64().unwrap(), s["measured_seconds"].as_f64().unwrap());
        assert!(p > 0.0 && m > 0.0 && s["unprobed_dispatches"] == 0, "{s}");
    }
    assert!(said["probes"].as_array().unwrap().len() > 5);
    assert!(refused(&[&path, "--here", "--device", "cpu"]).contains("runs no plans"));
    assert!(refused(&[&path, "--here", "--device", &index, "--rounds", "0"]).contains("--rounds is 0"));
}

#[test]
fn tables_of_a_user_are_scored_row_by_row() {
    let folder = Folder::new("tables");
    let table = folder.file("t.csv", "model,cluster,gpus,tp,pp,global_batch,recompute,dtype,seconds,remark\ngpt3-175b,DGX A100,64,8,8,64,full,fp16,18.13,a\nnone,dgx-a100,8,,,8,,,1,b\n").display().to_string();
    let rows = folder.path().join("rows.csv").display().to_string();
    let said = warpweft(&["validate", "--table", &table, "--as", "training", "--rows", &rows]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(
        said.out.contains(
            "line 3: not priced, counts as 100 % off, here and for the constant: there is no model preset \"none\""
        ) && said.out.contains("ignored: remark"),
        "{}",
        said.out
    );
    let written = std::fs::read_to_string(rows).unwrap();
    assert_eq!(written.lines().count(), 3);
    for (args, what) in [
        (vec!["--table", "/nowhere.csv", "--as", "gemm"], "cannot be read"),
        (vec!["--table", "/dev/zero", "--as", "gemm"], "is no table"),
        (vec!["--table", &table, "--as", "memory"], "none of the columns"),
    ] {
        let said = warpweft(&[&["validate"], &args[..]].concat());
        assert!(
            said.code == Some(1) && said.err.contains(what) && said.err.lines().count() == 1,
            "{what}: {}",
            said.err
        );
    }
}
