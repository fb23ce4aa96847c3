//! A strict HTML parser for this program's pages: matching tags, attributes in double quotes,
//! unique ids.

use std::collections::BTreeSet;

/// Elements without an end tag.
const VOID: [&str; 5] = ["meta", "link", "input", "br", "hr"];

#[derive(Debug)]
pub struct Element {
    pub name: String,
    pub attributes: Vec<(String, String)>,
}

impl Element {
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub fn is(&self, name: &str, value: &str) -> bool {
        self.attribute(name) == Some(value)
    }
}

pub struct Markup {
    pub text: String,
    pub elements: Vec<Element>,
    texts: Vec<String>,
}

impl Markup {
    /// Parses a document, or returns the first fault.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut elements, mut texts, mut open, mut ids) = (Vec::new(), Vec::new(), Vec::new(), BTreeSet::new());
        let mut rest = text.strip_prefix("<!DOCTYPE html>").unwrap_or(text);
        while let Some((before, tag)) = rest.split_once('<') {
            if before.contains('>') {
                return Err(format!("`>` in the text {before:?}"));
            }
            texts.push(before.to_owned());
            let end =
                end_of_tag(tag).ok_or_else(|| format!("a tag without an end: {:?}", &tag[..tag.len().min(40)]))?;
            rest = &tag[end + 1..];
            let tag = &tag[..end];
            if let Some(name) = tag.strip_prefix('/') {
                let opened: Option<String> = open.pop();
                if opened.as_deref() != Some(name) {
                    return Err(format!("{opened:?} is ended by `{name}`"));
                }
                continue;
            }
            // Empty SVG elements close themselves.
            let (tag, is_empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag.trim_end(), true));
            let element = element(tag)?;
            if let Some(id) = element.attribute("id")
                && !ids.insert(id.to_owned())
            {
                return Err(format!("the id `{id}` is there twice"));
            }
            if !is_empty && !VOID.contains(&&*element.name) {
                open.push(element.name.clone());
            }
            elements.push(element);
        }
        if open.is_empty() {
            Ok(Self { text: text.to_owned(), elements, texts })
        } else {
            Err(format!("open: {open:?}"))
        }
    }

    /// Returns all text that people read.
    pub fn titles_and_texts(&self) -> impl Iterator<Item = &str> {
        let titles = self.elements.iter().filter_map(|element| element.attribute("title"));
        self.texts.iter().map(String::as_str).chain(titles)
    }
}

fn end_of_tag(tag: &str) -> Option<usize> {
    let mut is_quoted = false;
    tag.char_indices().find_map(|(at, c)| {
        is_quoted ^= c == '"';
        (c == '>' && !is_quoted).then_some(at)
    })
}

fn element(tag: &str) -> Result<Element, String> {
    let (name, mut rest) = tag.split_once(' ').unwrap_or((tag, ""));
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
        return Err(format!("no tag's name: {name:?}"));
    }
    let mut attributes: Vec<(String, String)> = Vec::new();
    while !rest.is_empty() {
        let end = rest.find(['=', ' ']).unwrap_or(rest.len());
        let attribute = &rest[..end];
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if attribute.is_empty()
            || !attribute.bytes().all(is_name)
            || attributes.iter().any(|(name, _)| name == attribute)
        {
            return Err(format!("no attribute: {attribute:?} in {tag:?}"));
        }
        let mut value = "";
        rest = &rest[end..];
        if let Some(quoted) = rest.strip_prefix("=\"") {
            (value, rest) = quoted.split_once('"').ok_or_else(|| format!("an open quote in {tag:?}"))?;
            if value.contains('<') {
                return Err(format!("`<` in {value:?}"));
            }
        }
        attributes.push((attribute.to_owned(), value.to_owned()));
        rest = match rest.strip_prefix(' ') {
            Some(rest) => rest,
            None if rest.is_empty() => rest,
            None => return Err(format!("{rest:?} behind an attribute in {tag:?}")),
        };
    }
    Ok(Element { name: name.to_owned(), attributes })
}

/// Returns `text` with its character references replaced.
pub fn unescape(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}
