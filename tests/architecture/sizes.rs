//! How long files and functions are.

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Block, ItemMod, Signature};

use super::source::{File, Source, only_in_tests};

const MAX_FILE: usize = 450;
const MAX_FUNCTION: usize = 70;

pub(crate) struct Function {
    pub(crate) name: String,
    /// Of its signature.
    pub(crate) line: usize,
    pub(crate) lines: usize,
}

/// What is too long, in tests as well.
pub(crate) fn faults(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    for file in &source.files {
        let lines = file.text.lines().count();
        if lines > MAX_FILE {
            faults.push(format!(
                "{} has {lines} lines, and may have {MAX_FILE}",
                file.path
            ));
        }
        for function in functions(file, With::Tests) {
            let Function { name, line, lines } = function;
            if lines > MAX_FUNCTION {
                faults.push(format!(
                    "{}, line {line}: fn {name} has {lines} lines, and may have {MAX_FUNCTION}",
                    file.path
                ));
            }
        }
    }
    faults
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum With {
    Tests,
    NoTests,
}

/// Those with a body, from the signature to the closing brace; with or without what is in modules for tests.
pub(crate) fn functions(file: &File, with: With) -> Vec<Function> {
    let mut reader = Reader {
        with,
        found: Vec::new(),
    };
    reader.visit_file(&file.syntax);
    reader.found
}

struct Reader {
    with: With,
    found: Vec<Function>,
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_attribute(&mut self, _: &'ast Attribute) {}

    fn visit_item_mod(&mut self, inner: &'ast ItemMod) {
        if self.with == With::Tests || !only_in_tests(&inner.attrs) {
            visit::visit_item_mod(self, inner);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.measure(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }

    fn visit_token_stream(&mut self, tokens: &'ast TokenStream) {
        self.scan(tokens);
    }
}

impl Reader {
    fn measure(&mut self, signature: &Signature, body: &Block) {
        let name = signature.ident.to_string();
        self.add(name, signature.fn_token.span, body.brace_token.span.close());
    }

    /// In a macro a function is `fn name` and whatever comes until braces.
    fn scan(&mut self, tokens: &TokenStream) {
        let mut begun: Option<(String, Span)> = None;
        let mut word = None;
        for token in tokens.clone() {
            match &token {
                TokenTree::Ident(ident) => {
                    if let Some(start) = word.take() {
                        begun = Some((ident.to_string(), start));
                    }
                    word = (ident == "fn").then(|| ident.span());
                }
                TokenTree::Group(group) => {
                    if group.delimiter() == Delimiter::Brace
                        && let Some((name, start)) = begun.take()
                    {
                        self.add(name, start, group.span_close());
                    }
                    self.scan(&group.stream());
                    word = None;
                }
                TokenTree::Punct(mark) => {
                    if mark.as_char() == ';' {
                        begun = None;
                    }
                    word = None;
                }
                TokenTree::Literal(_) => word = None,
            }
        }
    }

    fn add(&mut self, name: String, start: Span, end: Span) {
        let line = start.start().line;
        let lines = end.end().line + 1 - line;
        self.found.push(Function { name, line, lines });
    }
}
