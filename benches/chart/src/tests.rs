use super::{Axes, SIZE, Scale, Series, bars, lines, number};

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

#[test]
fn the_legend_stands_beside_the_plot() {
    let path = std::env::temp_dir().join(format!("galerne-legend-{}.svg", std::process::id()));
    let curves = ["one", "a curve with a long name"].map(|name| Series::new(name, vec![(1.0, 1.0), (2.0, 3.0)]));
    lines(&path, &axes(Scale::Linear), &curves).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    // Texts of the drawing stand on the line after their tag.
    let at = text.lines().zip(text.lines().skip(1)).find(|(_, line)| line.starts_with("a curve")).unwrap().0;
    let x: u32 = at.split("x=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap();
    assert!(x >= SIZE.0, "{at}");
    let plot = text.split("<polyline").skip(1).filter_map(|line| line.split("points=\"").nth(1));
    let rightmost = plot.flat_map(|points| points.split('"').next().unwrap().split_whitespace());
    let rightmost = rightmost.map(|point| point.split(',').next().unwrap().parse::<u32>().unwrap()).max().unwrap();
    assert!(rightmost < SIZE.0, "{rightmost}");
}

#[test]
fn a_figure_has_as_many_decimals_as_it_needs() {
    assert_eq!([60.0, 0.5, 0.98, -0.0, -5.0, 100_000.0].map(number), ["60", "0.5", "0.98", "0", "-5", "100000"]);
}
