use super::{Axes, Scale, Series, bars, lines};

fn axes(scale: Scale) -> Axes {
    Axes { title: "Cost".into(), x: "GPUs".into(), y: "ms".into(), scale, ..Axes::default() }
}

#[test]
fn a_drawing_names_its_axes_and_its_curves() {
    let folder = std::env::temp_dir();
    for scale in [Scale::Linear, Scale::Logarithmic] {
        let path = folder.join(format!("galerne-chart-{}-{scale:?}.svg", std::process::id()));
        lines(&path, &axes(scale), &[Series::new("galerne", vec![(256.0, 0.1), (45_000.0, 4.0)])]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        for word in ["Cost", "GPUs", "ms", "galerne"] {
            assert!(text.contains(word), "{word} is missing at {scale:?}");
        }
    }
}

#[test]
fn every_category_of_bars_is_named() {
    let path = std::env::temp_dir().join(format!("galerne-bars-{}.svg", std::process::id()));
    let categories: Vec<String> = ["one", "two", "three"].map(str::to_owned).to_vec();
    let heights = vec![(0.0, 1.0), (0.0, 3.0), (0.0, 2.0)];
    bars(&path, &axes(Scale::Linear), &categories, &[Series::new("galerne", heights)]).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    for word in ["one", "two", "three", "galerne"] {
        assert!(text.contains(word), "{word} is missing: {text}");
    }
}
