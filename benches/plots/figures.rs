//! What was measured, as the benchmarks wrote it.

use std::path::Path;

use serde_json::Value;

pub(crate) struct Figures(Vec<Figure>);

pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) setting: String,
    pub(crate) own: Samples,
    pub(crate) limits: Vec<(String, Samples)>,
}

#[derive(Clone)]
pub(crate) struct Samples(pub(crate) Vec<f64>);

impl Samples {
    /// The value below which this share of them lies.
    pub(crate) fn at(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let place = (sorted.len() - 1) as f64 * share;
        let (low, high) = (
            sorted[place.floor() as usize],
            sorted[place.ceil() as usize],
        );
        low + (high - low) * place.fract()
    }

    pub(crate) fn median(&self) -> f64 {
        self.at(0.5)
    }

    /// Each pair on its own.
    pub(crate) fn ratios(&self, other: &Self) -> Self {
        let pairs = self.0.iter().zip(&other.0);
        Self(pairs.map(|(own, other)| own / other).collect())
    }
}

impl Figures {
    /// Of all files with figures in this directory.
    pub(crate) fn read(directory: &Path) -> Self {
        let files = std::fs::read_dir(directory).expect("a directory with figures");
        let mut paths: Vec<_> = files.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|name| name == "json"));
        // A figure that was measured again takes the place of the older one.
        paths.sort_by_key(|path| path.metadata().and_then(|data| data.modified()).ok());
        let mut figures: Vec<Figure> = Vec::new();
        for path in paths {
            let text = std::fs::read_to_string(&path).expect("a readable file");
            let rows: Vec<Value> = serde_json::from_str(&text)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            for figure in rows.iter().map(Figure::new) {
                let mut known = figures.iter_mut();
                match known.find(|it| it.name == figure.name && it.setting == figure.setting) {
                    Some(older) => *older = figure,
                    None => figures.push(figure),
                }
            }
        }
        Self(figures)
    }

    /// Those whose name begins so, with what follows; through this connection, on this runtime, unless
    /// it does not matter.
    pub(crate) fn after<'a>(
        &'a self,
        start: &'a str,
        setting: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a Figure)> {
        let figures = self.0.iter();
        let figures = figures.filter(move |it| setting.is_empty() || it.setting == setting);
        figures.filter_map(move |it| Some((it.name.strip_prefix(start)?, it)))
    }
}

impl Figure {
    fn new(row: &Value) -> Self {
        let text = |of: &Value, name: &str| of[name].as_str().unwrap_or_default().to_owned();
        let samples = |of: &Value| {
            let samples = of["samples"].as_array().into_iter().flatten();
            Samples(samples.filter_map(Value::as_f64).collect())
        };
        let limits = row["limits"].as_array().into_iter().flatten();
        Self {
            name: text(row, "figure"),
            setting: text(row, "setting"),
            own: samples(row),
            limits: limits
                .map(|limit| (text(limit, "limit"), samples(limit)))
                .collect(),
        }
    }

    pub(crate) fn limit(&self, name: &str) -> Option<&Samples> {
        let mut limits = self.limits.iter();
        limits
            .find(|(limit, _)| limit == name)
            .map(|(_, samples)| samples)
    }
}

/// The number at the start of a text, written as people write it.
pub(crate) fn number(text: &str) -> Option<f64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != ',');
    let digits = text[..end.unwrap_or(text.len())].replace(',', "");
    digits.parse().ok()
}
