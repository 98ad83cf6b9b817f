//! From a value to a place on an axis.

/// How the values of an axis are laid out.
#[derive(Clone, Copy)]
pub(crate) enum Scale {
    Linear,
    Log,
}

#[derive(Clone)]
pub(crate) struct Axis {
    pub(crate) label: String,
    pub(crate) scale: Scale,
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// Values and their texts.
    pub(crate) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From zero to a little above the greatest value.
    pub(crate) fn linear(label: &str, greatest: f64) -> Self {
        let step = round_step(greatest / 5.0);
        let high = (greatest * 1.05 / step).ceil() * step;
        let count = (high / step).round() as usize;
        let ticks = (0..=count).map(|tick| tick as f64 * step);
        Self {
            label: label.to_owned(),
            scale: Scale::Linear,
            low: 0.0,
            high,
            ticks: ticks.map(|value| (value, short(value))).collect(),
        }
    }

    /// From the power of ten below the least to that above the greatest value.
    pub(crate) fn log(label: &str, values: impl Iterator<Item = f64>) -> Self {
        let (least, greatest) = values.fold((f64::MAX, f64::MIN), |(least, greatest), value| {
            (least.min(value), greatest.max(value))
        });
        let low = least.log10().floor() as i32;
        let high = (greatest.log10().ceil() as i32).max(low + 1);
        let ticks = (low..=high).map(|power| 10f64.powi(power));
        Self {
            label: label.to_owned(),
            scale: Scale::Log,
            low: 10f64.powi(low),
            high: 10f64.powi(high),
            ticks: ticks.map(|value| (value, short(value))).collect(),
        }
    }

    /// These and nothing between, with a margin.
    pub(crate) fn steps(label: &str, texts: &[String]) -> Self {
        let ticks = texts.iter().enumerate();
        Self {
            label: label.to_owned(),
            scale: Scale::Linear,
            low: -0.3,
            high: texts.len() as f64 - 0.7,
            ticks: ticks.map(|(at, text)| (at as f64, text.clone())).collect(),
        }
    }

    /// From 0 at the low end to 1 at the high.
    pub(crate) fn share(&self, value: f64) -> f64 {
        let of = |value: f64| match self.scale {
            Scale::Linear => value,
            Scale::Log => value.max(f64::MIN_POSITIVE).ln(),
        };
        (of(value) - of(self.low)) / (of(self.high) - of(self.low))
    }
}

/// 1, 2 or 5 times a power of ten.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].into_iter();
    let mut steps = steps.map(|step| step * power);
    steps.find(|round| *round >= step).unwrap_or(power)
}

/// Three digits at most.
pub(crate) fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        v if v >= 1e6 => (value / 1e6, " M"),
        v if v >= 1e3 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let text = match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 || v == 0.0 => format!("{value:.2}"),
        v if v >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    };
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text}{unit}")
}
