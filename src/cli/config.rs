//! The configuration file: TOML in which each option of `serve` stands by its name, and `services` for SERVICE=ADDRESS.
//!
//! ```text
//!  max-connections = 1000  ─►  --max-connections=1000  ─►  an option like those that were typed
//! ```
//!
//! There is no list of settings here: they are the options, and their values are read by the same code.

use std::any::TypeId;
use std::fs;
use std::io::Read;
use std::path::Path;

use clap::{Arg, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::unix_mode::UnixMode;
use super::{sentence, spelling};

/// More is no configuration, but a wrong file.
const FILE_BYTES_MAX: usize = 1 << 20;

/// The option that names the file.
const CONFIG: &str = "config";

/// What stands in the file for the positional arguments.
const SERVICES: &str = "services";

/// What a file says about one option: a word of the command line.
pub struct Setting {
    /// The option as clap identifies it.
    pub id: String,
    pub word: String,
}

/// Reads the settings of a file for the command `serve`, each of which is found good by itself, and all of them together.
///
/// # Errors
/// A line that names the file, the line in it, and what is wrong.
pub fn read(path: &Path, serve: &Command) -> Result<Vec<Setting>, String> {
    // The file is judged alone: the environment may have its own mistakes, which count only if nobody overrides them.
    let serve = serve.clone().no_binary_name(true).mut_args(|arg| arg.env(None));
    let judge = |words: &[&str]| {
        serve.clone().try_get_matches_from(words).map(drop).map_err(|error| sentence(&error))
    };

    let text = text_of(path)
        .map_err(|error| format!("cannot read the configuration file {}: {error}", path.display()))?;
    let at = |offset: usize, what: &str| {
        let line = 1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count();
        format!("{}:{line}: {what}", path.display())
    };

    let table = DeTable::parse(&text)
        .map_err(|error| at(error.span().map_or(0, |span| span.start), error.message()))?
        .into_inner();
    let mut entries: Vec<_> = table.iter().collect();
    // In the order in which they were written, which is the one in which somebody repairs them.
    entries.sort_by_key(|(name, _)| name.span().start);

    let mut settings = Vec::new();
    for (name, value) in entries {
        let arg = option(name.get_ref(), &serve).map_err(|error| at(name.span().start, &error))?;
        let words = words(arg, value)
            .map_err(|expected| at(value.span().start, &format!("{} must be {expected}", name.get_ref())))?;
        for (offset, word) in words {
            // What looks like an option is none here.
            let guard: &[&str] = if arg.is_positional() { &["--"] } else { &[] };
            judge(&[guard, &[&word]].concat()).map_err(|error| at(offset, &error))?;
            settings.push(Setting { id: arg.get_id().to_string(), word });
        }
    }
    let all: Vec<_> = settings.iter().map(|setting| setting.word.as_str()).collect();
    judge(&all).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(settings)
}

fn text_of(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| error.to_string())?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err("the file is larger than 1MiB".to_owned());
    }
    String::from_utf8(bytes).map_err(|_| "the file is not valid UTF-8".to_owned())
}

/// The option that a name in the file stands for.
fn option<'a>(name: &str, serve: &'a Command) -> Result<&'a Arg, String> {
    if name == CONFIG {
        return Err("a configuration file cannot name another one".to_owned());
    }
    let name_of = |arg: &'a Arg| if arg.is_positional() { Some(SERVICES) } else { arg.get_long() };
    if let Some(arg) = serve.get_arguments().find(|&arg| name_of(arg) == Some(name)) {
        return Ok(arg);
    }
    let names = serve.get_arguments().filter_map(name_of).filter(|&name| name != CONFIG);
    Err(match spelling::nearest(name, names) {
        Some(nearest) => format!("unknown option '{name}': did you mean '{nearest}'?"),
        None => {
            format!("unknown option '{name}': the names are those of the options in tidewheel serve --help")
        }
    })
}

/// The words that a value comes to, each with its place in the file.
///
/// # Errors
/// What kind of value is expected instead.
fn words(arg: &Arg, value: &Spanned<DeValue<'_>>) -> Result<Vec<(usize, String)>, &'static str> {
    if arg.is_positional() {
        let expected = "a list such as [\"echo=127.0.0.1:7007\"]";
        let list = value.get_ref().as_array().filter(|list| !list.is_empty()).ok_or(expected)?;
        return list
            .iter()
            .map(|item| Ok((item.span().start, item.get_ref().as_str().ok_or(expected)?.to_owned())))
            .collect();
    }
    let kind = arg.get_value_parser().type_id();
    let text = match value.get_ref() {
        DeValue::Boolean(value) if kind == TypeId::of::<bool>() => value.to_string(),
        _ if kind == TypeId::of::<bool>() => return Err("true or false"),
        DeValue::String(text) => text.to_string(),
        _ if kind == TypeId::of::<String>() => return Err("a string"),
        // The digits are octal: a plain number would be another one.
        DeValue::Integer(number) if kind == TypeId::of::<UnixMode>() => match number.radix() {
            8 => number.as_str().to_owned(),
            _ => return Err("a string such as \"0660\""),
        },
        DeValue::Integer(number) => {
            i128::from_str_radix(number.as_str(), number.radix()).map_err(|_| "a smaller number")?.to_string()
        }
        _ if kind == TypeId::of::<UnixMode>() => return Err("a string such as \"0660\""),
        _ => return Err("a string or a whole number"),
    };
    let name = arg.get_long().unwrap_or_default();
    Ok(vec![(value.span().start, format!("--{name}={text}"))])
}
