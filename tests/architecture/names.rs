//! Which file defines what a path names.

use std::collections::{BTreeMap, HashMap, HashSet};

use syn::visit::{self, Visit};
use syn::{Item, ItemMod, ItemUse, UseTree, Visibility};

use super::source::{Source, only_in_tests};

/// Imports can name each other in a ring; no honest chain of them is this long.
const MAX_HOPS: usize = 16;

/// The names of each module, by the module's path.
pub(crate) struct Names {
    modules: BTreeMap<Vec<String>, Module>,
}

/// Where a path leads: `name` in a file, by its number in the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: usize,
    pub(crate) name: String,
}

/// One name that a `use` brings in.
pub(crate) struct Import {
    pub(crate) path: Vec<String>,
    /// None for a glob, whose path is that of the module.
    pub(crate) name: Option<String>,
    pub(crate) line: usize,
}

#[derive(Default)]
struct Module {
    file: usize,
    defined: HashSet<String>,
    imported: HashMap<String, Vec<Imported>>,
    globs: Vec<Imported>,
}

struct Imported {
    path: Vec<String>,
    is_reexport: bool,
}

impl Names {
    pub(crate) fn of(source: &Source) -> Self {
        let mut modules = BTreeMap::new();
        for (number, file) in source.files.iter().enumerate() {
            enter(&mut modules, number, &file.module, &file.syntax.items);
        }
        Self { modules }
    }

    /// What `path` means where it stands in `module`, if that is in the crate.
    pub(crate) fn find(&self, module: &[String], path: &[String]) -> Option<Place> {
        self.find_within(MAX_HOPS, module, path)
    }

    pub(crate) fn is_child(&self, module: &[String], name: &str) -> bool {
        self.modules.contains_key(&joined(module, name))
    }

    fn find_within(&self, hops: usize, module: &[String], path: &[String]) -> Option<Place> {
        let hops = hops.checked_sub(1)?;
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => return self.follow(hops, &[], rest),
            "self" if rest.first().is_some_and(|name| name == "super") => {
                return self.find_within(hops, module, rest);
            }
            "self" => return self.follow(hops, module, rest),
            "super" => {
                let supers = path.iter().take_while(|name| *name == "super").count();
                let above = module.len().checked_sub(supers)?;
                return self.follow(hops, &module[..above], &path[supers..]);
            }
            _ => {}
        }
        if self.is_child(module, first) {
            return self.follow(hops, module, path);
        }
        let here = self.modules.get(module)?;
        if let Some(imported) = here.imported.get(first) {
            return imported
                .iter()
                .find_map(|import| self.find_within(hops, module, &[&import.path, rest].concat()));
        }
        if here.defined.contains(first) {
            return self.follow(hops, module, path);
        }
        let mut globs = here.globs.iter();
        globs.find_map(|glob| self.find_in_glob(hops, module, &glob.path, path))
    }

    /// Goes down from `module`, and over what is re-exported there. Where the names end, the rest is taken
    /// for something that the file reached so far defines: a macro may have made it, or the file lends a
    /// private import to its children, which is a use of that file.
    fn follow(&self, hops: usize, module: &[String], path: &[String]) -> Option<Place> {
        let here = self.modules.get(module)?;
        let Some((first, rest)) = path.split_first() else {
            return Some(Place {
                file: here.file,
                name: module.last().map_or("crate", String::as_str).to_owned(),
            });
        };
        if self.is_child(module, first) {
            return self.follow(hops, &joined(module, first), rest);
        }
        let own = Place {
            file: here.file,
            name: first.clone(),
        };
        if here.defined.contains(first) {
            return Some(own);
        }
        let named = here.imported.get(first).into_iter().flatten();
        let mut named = named.filter(|imported| imported.is_reexport);
        let mut globs = here.globs.iter().filter(|glob| glob.is_reexport);
        named
            .find_map(|import| self.find_within(hops, module, &[&import.path, rest].concat()))
            .or_else(|| globs.find_map(|glob| self.find_in_glob(hops, module, &glob.path, path)))
            .or(Some(own))
    }

    /// `path` as a name of the module that `glob` leads to, if that module has it.
    fn find_in_glob(
        &self,
        hops: usize,
        module: &[String],
        glob: &[String],
        path: &[String],
    ) -> Option<Place> {
        let hops = hops.checked_sub(1)?;
        let target = self.module_of(module, glob)?;
        let there = self.modules.get(&target)?;
        let first = path.first()?;
        let has_it = self.is_child(&target, first)
            || there.defined.contains(first)
            || there.imported.contains_key(first);
        if has_it {
            return self.follow(hops, &target, path);
        }
        let mut globs = there.globs.iter();
        globs.find_map(|glob| self.find_in_glob(hops, &target, &glob.path, path))
    }

    /// The path from the root of the module that a glob names; none where that is a type, or is elsewhere.
    fn module_of(&self, module: &[String], path: &[String]) -> Option<Vec<String>> {
        let mut at = module.to_vec();
        for (position, name) in path.iter().enumerate() {
            match name.as_str() {
                "crate" if position == 0 => at.clear(),
                "self" if position == 0 => {}
                "super" => {
                    at.pop()?;
                }
                name => at.push(name.to_owned()),
            }
        }
        self.modules.contains_key(&at).then_some(at)
    }
}

/// The names that a `use` brings in; none of what begins with `::`, which is another crate.
pub(crate) fn imports(item: &ItemUse) -> Vec<Import> {
    let mut found = Vec::new();
    if item.leading_colon.is_none() {
        spread(&mut Vec::new(), &item.tree, &mut found);
    }
    found
}

/// Whether others may take the name from here. `pub(self)` says private in more words.
pub(crate) fn is_reexport(visibility: &Visibility) -> bool {
    match visibility {
        Visibility::Public(_) => true,
        Visibility::Restricted(to) => !to.path.is_ident("self"),
        Visibility::Inherited => false,
    }
}

fn spread(path: &mut Vec<String>, tree: &UseTree, found: &mut Vec<Import>) {
    let (ident, name) = match tree {
        UseTree::Path(step) => {
            path.push(step.ident.to_string());
            spread(path, &step.tree, found);
            path.pop();
            return;
        }
        UseTree::Group(group) => {
            for tree in &group.items {
                spread(path, tree, found);
            }
            return;
        }
        UseTree::Glob(glob) => {
            found.push(Import {
                path: path.clone(),
                name: None,
                line: glob.star_token.span.start().line,
            });
            return;
        }
        UseTree::Name(name) => (&name.ident, &name.ident),
        UseTree::Rename(rename) => (&rename.ident, &rename.rename),
    };
    let mut path = path.clone();
    // `a::{self}` is `a`.
    let own_name = path.last().cloned().filter(|_| ident == "self");
    let name = match own_name {
        Some(module) if name == "self" => module,
        _ => name.to_string(),
    };
    if ident != "self" || path.is_empty() {
        path.push(ident.to_string());
    }
    found.push(Import {
        path,
        name: Some(name),
        line: ident.span().start().line,
    });
}

fn enter(
    modules: &mut BTreeMap<Vec<String>, Module>,
    file: usize,
    path: &[String],
    items: &[Item],
) {
    let mut module = Module {
        file,
        ..Module::default()
    };
    for item in items {
        match item {
            Item::Use(item) => module.import(item),
            Item::Mod(inline) if !only_in_tests(&inline.attrs) => {
                if let Some((_, items)) = &inline.content {
                    enter(
                        modules,
                        file,
                        &joined(path, &inline.ident.to_string()),
                        items,
                    );
                }
            }
            item => module.defined.extend(name_of(item)),
        }
    }
    for item in items {
        InnerImports(&mut module).visit_item(item);
    }
    modules.insert(path.to_vec(), module);
}

impl Module {
    fn import(&mut self, item: &ItemUse) {
        for import in imports(item) {
            let imported = Imported {
                path: import.path,
                is_reexport: is_reexport(&item.vis),
            };
            match import.name {
                Some(name) => self.imported.entry(name).or_default().push(imported),
                None => self.globs.push(imported),
            }
        }
    }
}

/// What functions import is known in the whole module, after the module's own imports: too much is
/// found where two functions give one name two meanings, never too little.
struct InnerImports<'a>(&'a mut Module);

impl<'ast> Visit<'ast> for InnerImports<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !matches!(item, Item::Mod(_) | Item::Use(_)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, _: &'ast ItemMod) {}

    fn visit_block(&mut self, block: &'ast syn::Block) {
        for statement in &block.stmts {
            match statement {
                syn::Stmt::Item(Item::Use(item)) => self.0.import(item),
                statement => self.visit_stmt(statement),
            }
        }
    }
}

fn name_of(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}

fn joined(module: &[String], name: &str) -> Vec<String> {
    let mut path = module.to_vec();
    path.push(name.to_owned());
    path
}
