//! What a file uses of others: its imports and its paths, in functions and macros too.

use std::collections::HashSet;

use proc_macro2::{Delimiter, Ident, Spacing, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, ItemMod, ItemUse, PatIdent};

use super::names::{Names, Place, imports, is_reexport};
use super::source::{File, only_in_tests};

/// Something of another file, and the line that names it.
#[derive(Clone, Debug)]
pub(crate) struct Use {
    pub(crate) place: Place,
    pub(crate) line: usize,
}

pub(crate) fn uses(file: &File, names: &Names) -> Vec<Use> {
    let mut bound = Bound::default();
    bound.visit_file(&file.syntax);
    let mut reader = Reader {
        names,
        module: file.module.clone(),
        bound: bound.0,
        found: Vec::new(),
    };
    reader.visit_file(&file.syntax);
    reader.found
}

/// The names of a file's variables: where one stands alone, it is not what an import of that name is.
#[derive(Default)]
struct Bound(HashSet<String>);

impl<'ast> Visit<'ast> for Bound {
    fn visit_pat_ident(&mut self, pattern: &'ast PatIdent) {
        if !is_upper(&pattern.ident) {
            self.0.insert(pattern.ident.to_string());
        }
        visit::visit_pat_ident(self, pattern);
    }
}

struct Reader<'a> {
    names: &'a Names,
    /// Where the reader stands: the file's module or one inside of it.
    module: Vec<String>,
    bound: HashSet<String>,
    found: Vec<Use>,
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_attribute(&mut self, _: &'ast Attribute) {}

    fn visit_item_mod(&mut self, inner: &'ast ItemMod) {
        if !only_in_tests(&inner.attrs) {
            self.module.push(inner.ident.to_string());
            visit::visit_item_mod(self, inner);
            self.module.pop();
        }
    }

    /// A name that is re-exported is used where somebody takes it, which may be this file as well.
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if !is_reexport(&item.vis) {
            for import in imports(item) {
                self.take(&import.path, import.line);
            }
        }
    }

    /// That of `pub(in crate::a)` counts as well: it leans on the module that it names.
    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            let idents: Vec<&Ident> = path.segments.iter().map(|segment| &segment.ident).collect();
            self.read(&idents);
        }
        visit::visit_path(self, path);
    }

    /// The parser takes a constant for a variable.
    fn visit_pat_ident(&mut self, pattern: &'ast PatIdent) {
        if is_upper(&pattern.ident) {
            self.read(&[&pattern.ident]);
        }
        visit::visit_pat_ident(self, pattern);
    }

    /// The tokens of a macro, or of what the parser does not know.
    fn visit_token_stream(&mut self, tokens: &'ast TokenStream) {
        self.scan(&[], tokens);
    }
}

impl Reader<'_> {
    fn read(&mut self, idents: &[&Ident]) {
        let path: Vec<String> = idents.iter().map(ToString::to_string).collect();
        if let [name] = &path[..] {
            let is_word = matches!(name.as_str(), "crate" | "self" | "super");
            if is_word || self.bound.contains(name) || self.names.is_child(&self.module, name) {
                return;
            }
        }
        self.take(&path, idents[0].span().start().line);
    }

    fn take(&mut self, path: &[String], line: usize) {
        if let Some(place) = self.names.find(&self.module, path) {
            self.found.push(Use { place, line });
        }
    }

    /// Finds the paths among tokens, whatever they are: `a::b`, `a::{b, c}`, and `B` or `b(` alone.
    fn scan(&mut self, prefix: &[&Ident], tokens: &TokenStream) {
        let tokens: Vec<TokenTree> = tokens.clone().into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Group(group) => {
                    self.scan(&[], &group.stream());
                    at += 1;
                }
                TokenTree::Ident(_) => at = self.scan_path(prefix, &tokens, at),
                _ => at += 1,
            }
        }
    }

    /// Reads the path that begins at `start`, and gives where it ends.
    fn scan_path(&mut self, prefix: &[&Ident], tokens: &[TokenTree], start: usize) -> usize {
        let mut path = prefix.to_vec();
        let mut at = start;
        while let Some(TokenTree::Ident(ident)) = tokens.get(at) {
            path.push(ident);
            at += 1;
            if !is_colons(tokens, at) {
                break;
            }
            at += 2;
        }
        let next = match tokens.get(at) {
            Some(TokenTree::Group(group)) => Some(group),
            _ => None,
        };
        if let Some(group) = next
            && group.delimiter() == Delimiter::Brace
            && at >= 2
            && is_colons(tokens, at - 2)
        {
            self.scan(&path, &group.stream());
            return at + 1;
        }
        let is_member = match start.checked_sub(1).map(|before| &tokens[before]) {
            Some(TokenTree::Punct(mark)) => matches!(mark.as_char(), '.' | '\''),
            _ => false,
        };
        let is_foreign = start >= 2 && is_colons(tokens, start - 2);
        let is_called = next.is_some_and(|group| group.delimiter() == Delimiter::Parenthesis);
        let is_name = path.len() > 1 || is_called || is_upper(path[0]);
        if is_name && !is_foreign && !is_member {
            self.read(&path);
        }
        at
    }
}

/// By custom: a type, a constant or a variant, so no variable.
fn is_upper(ident: &Ident) -> bool {
    ident.to_string().starts_with(char::is_uppercase)
}

fn is_colons(tokens: &[TokenTree], at: usize) -> bool {
    let mark = |at: usize| match tokens.get(at) {
        Some(TokenTree::Punct(mark)) if mark.as_char() == ':' => Some(mark.spacing()),
        _ => None,
    };
    mark(at) == Some(Spacing::Joint) && mark(at + 1).is_some()
}
