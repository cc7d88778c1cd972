//! What the documentation tells people to type is true.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use countersign_tests::vendor::profile;

/// A fenced block of a document.
#[derive(Debug)]
struct Block {
    /// File and line, for messages.
    place: String,
    language: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// README.md and everything in docs/.
fn documents() -> Vec<PathBuf> {
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = docs.filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    all.sort();
    all.insert(0, root().join("README.md"));
    all
}

fn blocks() -> Vec<Block> {
    documents().iter().flat_map(|path| blocks_of(path)).collect()
}

fn blocks_of(path: &Path) -> Vec<Block> {
    let document = std::fs::read_to_string(path).unwrap();
    let name = path.strip_prefix(root()).unwrap().display().to_string();
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for (i, line) in document.lines().enumerate() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(language), None) => {
                let (place, language) = (format!("{name}:{}", i + 1), language.trim().to_owned());
                open = Some(Block { place, language, text: String::new() });
            }
            (Some(_), Some(_)) => found.extend(open.take()),
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{name}: a block without an end: {open:?}");
    found
}

/// The commands of a shell block: comments dropped, continued lines joined,
/// pipelines and lists taken apart, assignments in front and prompts removed.
fn commands(block: &Block) -> Vec<Vec<String>> {
    let joined = block.text.replace("\\\n", " ");
    let mut all = Vec::new();
    for line in joined.lines() {
        let words = words(line.trim_start().trim_start_matches("$ "))
            .unwrap_or_else(|why| panic!("{}: {why}: {line}", block.place));
        let separators = ["|", "&&", "||", ";", "&"];
        for command in words.split(|word| separators.contains(&word.as_str())) {
            let assignment = |word: &&String| {
                word.split_once('=')
                    .is_some_and(|(n, _)| n.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
            };
            let mut command: Vec<_> = command.iter().skip_while(assignment).cloned().collect();
            if let Some(redirect) =
                command.iter().position(|word| word.starts_with(['>', '<']) || word.starts_with("2>"))
            {
                command.truncate(redirect);
            }
            if command.first().is_some_and(|word| word == "sudo" || word == "time") {
                command.remove(0);
            }
            if !command.is_empty() {
                all.push(command);
            }
        }
    }
    all
}

/// Words of a shell line: quotes, and comments to its end.
fn words(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, ';') => {
                words.extend(word.take());
                words.push(";".to_owned());
            }
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if quote.is_some() { Err("a quote without an end") } else { Ok(words) }
}

fn countersign(arguments: &[String]) -> Output {
    run("countersign", arguments)
}

fn run(program: &str, arguments: &[String]) -> Output {
    let program = profile().join(program);
    assert!(
        program.is_file(),
        "{} is missing: run `cargo build --workspace --bins` first",
        program.display()
    );
    Command::new(program).args(arguments).env_remove("COUNTERSIGN_CONTEXT").output().unwrap()
}

#[test]
fn every_command_line_of_the_documentation_is_one_that_the_program_takes() {
    let mut count = 0;
    for block in
        blocks().iter().filter(|b| matches!(b.language.as_str(), "sh" | "bash" | "shell" | "console"))
    {
        for command in commands(block) {
            let program = command[0].rsplit('/').next().unwrap();
            if !matches!(
                program,
                "countersign" | "countersign-broker" | "countersign-init" | "countersign-proxy"
            ) {
                continue;
            }
            count += 1;
            // clap reads everything in front of --help first: an unknown
            // command, option or value is an error all the same.
            let mut arguments = command[1..].to_vec();
            let position = arguments.iter().position(|word| word == "--").unwrap_or(arguments.len());
            arguments.insert(position, "--help".to_owned());
            let output = run(program, &arguments);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: `{}`: {said}", block.place, command.join(" "));
        }
    }
    println!("{count} command lines in blocks");
}

#[test]
fn every_command_in_the_tables_of_the_documentation_exists() {
    for path in documents() {
        let text = std::fs::read_to_string(&path).unwrap();
        for span in text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)) {
            let Some(rest) = span.strip_prefix("countersign ") else { continue };
            let command: Vec<String> = rest.split_whitespace().take(1).map(str::to_owned).collect();
            let Some(name) =
                command.first().filter(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
            else {
                continue;
            };
            let arguments = if name.starts_with('-') {
                vec![name.clone()]
            } else {
                vec![name.clone(), "--help".to_owned()]
            };
            assert!(countersign(&arguments).status.success(), "{}: `{span}`", path.display());
            // Its long options are named in its help.
            let help = String::from_utf8(countersign(&arguments).stdout).unwrap();
            for option in rest.split_whitespace().filter(|word| word.starts_with("--") && *name != **word) {
                let option = option.split('=').next().unwrap();
                assert!(help.contains(option), "{}: `{span}`: no option {option}", path.display());
            }
        }
    }
}

#[test]
fn every_make_target_that_is_named_exists() {
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    let targets: Vec<_> =
        makefile.lines().filter_map(|line| line.split_once(':').map(|(t, _)| t.trim())).collect();
    let mut seen = Vec::new();
    for block in blocks().iter().filter(|b| b.language == "sh") {
        for command in commands(block).into_iter().filter(|command| command[0] == "make") {
            for target in command[1..].iter().filter(|word| !word.starts_with('-') && !word.contains('=')) {
                assert!(targets.contains(&target.as_str()), "{}: make {target}", block.place);
                seen.push(target.clone());
            }
        }
    }
    assert!(seen.contains(&"demo".to_owned()) && seen.contains(&"test".to_owned()), "{seen:?}");
}

#[test]
fn every_yaml_document_of_the_documentation_is_valid() {
    for block in blocks().iter().filter(|b| b.language == "yaml") {
        for document in
            block.text.split("\n---").filter(|text| text.lines().any(|line| line.starts_with("kind:")))
        {
            let document = document.trim_start_matches('\n');
            let problems = if document.contains("Bootstrap") {
                countersign_config::bootstrap::validate(&block.place, document).err()
            } else if document.contains("kind: OperatorContext") {
                None
            } else {
                countersign_config::parse(&block.place, document).err()
            };
            assert!(problems.is_none(), "{}: {:#?}\n{document}", block.place, problems.unwrap());
        }
    }
}

#[test]
fn every_block_says_what_it_is() {
    let known = ["sh", "bash", "yaml", "text", "rust", "toml", "ini", "json", "console"];
    for block in blocks() {
        assert!(known.contains(&block.language.as_str()), "{}: a block of {:?}", block.place, block.language);
    }
}

#[test]
fn every_link_to_a_file_leads_to_one() {
    for path in documents() {
        let text = std::fs::read_to_string(&path).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") || target.starts_with('#') {
                continue;
            }
            let file = target.split('#').next().unwrap();
            let target_path = path.parent().unwrap().join(file);
            assert!(target_path.exists(), "{}: link to {target}", path.display());
        }
    }
}
