//! Palette files and job palettes, as users write them and as nobody should.

use std::path::PathBuf;

use concept_worker::kernel::color::Rgb8;
use concept_worker::kernel::palette::{Palette, Role};
use concept_worker::pipeline::job::{Job, JobError, PaletteRequest, PaletteSpec};
use concept_worker::pipeline::palette_file::{
    MAX_FILE_BYTES, PaletteFileError, from_specs, labels, parse, to_gpl, to_hex, to_json,
};
use proptest::prelude::*;

const TERRACOTTA: [&str; 5] = ["#264653", "#2A9D8F", "#E9C46A", "#F4A261", "#E76F51"];

fn hex(palette: &Palette) -> Vec<String> {
    palette.colors().iter().map(Rgb8::to_string).collect()
}

/// Names and colours of a file.
fn read(text: &str) -> Vec<(String, Vec<String>)> {
    let palettes = parse(text.as_bytes(), "file").unwrap_or_else(|e| panic!("{e}\n{text}"));
    palettes.iter().map(|p| (p.name().to_owned(), hex(p))).collect()
}

fn refusal(bytes: &[u8]) -> String {
    parse(bytes, "file").expect_err("should be refused").to_string()
}

/// `read` of a list that is one palette with the file's name.
fn assert_one(text: &str, colors: &[&str]) {
    assert_eq!(read(text), [("file".to_owned(), colors.iter().map(|c| c.to_string()).collect())], "{text}");
}

fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/palettes").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

// ---------------------------------------------------------------------------------------------------------------- ASE

/// Builds swatch exchange files.
#[derive(Default)]
struct Ase {
    blocks: u32,
    body: Vec<u8>,
}

impl Ase {
    fn block(mut self, kind: u16, content: &[u8]) -> Self {
        self.blocks += 1;
        self.body.extend(kind.to_be_bytes());
        self.body.extend((content.len() as u32).to_be_bytes());
        self.body.extend(content);
        self
    }

    fn name(text: &str) -> Vec<u8> {
        let units: Vec<u16> = text.encode_utf16().chain([0]).collect();
        let mut bytes = (units.len() as u16).to_be_bytes().to_vec();
        bytes.extend(units.iter().flat_map(|u| u.to_be_bytes()));
        bytes
    }

    fn group(self, name: &str) -> Self {
        self.block(0xC001, &Self::name(name))
    }

    fn end(self) -> Self {
        self.block(0xC002, &[])
    }

    fn swatch(self, name: &str, model: &[u8; 4], values: &[f32]) -> Self {
        let mut content = Self::name(name);
        content.extend(model);
        content.extend(values.iter().flat_map(|v| v.to_be_bytes()));
        content.extend(0u16.to_be_bytes());
        self.block(1, &content)
    }

    fn rgb(self, color: Rgb8) -> Self {
        let [r, g, b] = [color.r, color.g, color.b].map(|v| f32::from(v) / 255.0);
        self.swatch(&color.to_string(), b"RGB ", &[r, g, b])
    }

    fn bytes(&self) -> Vec<u8> {
        let mut file = b"ASEF\0\x01\0\0".to_vec();
        file.extend(self.blocks.to_be_bytes());
        file.extend(&self.body);
        file
    }
}

fn act(colors: &[Rgb8], tail: Option<[u16; 2]>) -> Vec<u8> {
    let mut file: Vec<u8> = colors.iter().flat_map(|c| [c.r, c.g, c.b]).collect();
    file.resize(768, 0);
    file.extend(tail.iter().flatten().flat_map(|v| v.to_be_bytes()));
    file
}

fn terracotta() -> Vec<Rgb8> {
    TERRACOTTA.iter().map(|c| c.parse().unwrap()).collect()
}

#[test]
fn the_binary_samples_are_what_their_builders_write() {
    let brand = parse(&fixture("brand.json"), "brand").unwrap();
    let ase = brand.iter().take(3).fold(Ase::default(), |file, palette| {
        palette.colors().iter().fold(file.group(palette.name()), |file, color| file.rgb(*color)).end()
    });
    for (name, bytes) in [("brand.ase", ase.bytes()), ("brand.act", act(&terracotta(), Some([5, 0xFFFF])))] {
        if std::env::var_os("UPDATE_FIXTURES").is_some() {
            std::fs::write(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/palettes").join(name), &bytes)
                .unwrap();
        }
        assert!(fixture(name) == bytes, "{name} differs; run with UPDATE_FIXTURES=1");
    }
}

#[test]
fn every_sample_file_is_read() {
    let names =
        |file: &str| parse(&fixture(file), "brand").unwrap().iter().map(|p| p.name().to_owned()).collect::<Vec<_>>();
    assert_eq!(names("brand.json"), ["Terracotta", "Harbour", "Fernwood", "Sorbet", "Noir", "Carnival", "Espresso"]);
    for palette in parse(&fixture("brand.json"), "brand").unwrap() {
        assert_eq!(palette.colors().len(), 5);
        assert!(palette.description().is_some());
    }
    assert_eq!(names("roles.json"), ["Atelier", "Orchard", "Nightshift"]);
    assert_eq!(names("brand.gpl"), ["Terracotta"]);
    assert_eq!(names("brand.hex"), ["Terracotta", "Harbour", "brand 3"]);
    assert_eq!(names("brand.ase"), ["Terracotta", "Harbour", "Fernwood"]);
    assert_eq!(names("brand.act"), ["brand"]);
    for file in ["brand.json", "brand.gpl", "brand.hex", "brand.ase", "brand.act"] {
        assert_eq!(hex(&parse(&fixture(file), "brand").unwrap()[0]), TERRACOTTA, "{file}");
    }
}

#[test]
fn swatches_outside_groups_form_one_palette_where_the_first_of_them_is() {
    let [red, green, blue] = [Rgb8::new(255, 0, 0), Rgb8::new(0, 255, 0), Rgb8::new(0, 0, 255)];
    let file = Ase::default().rgb(red).group("Ünïcode 🎨").rgb(green).end().rgb(blue).group("empty").end();
    let palettes = parse(&file.bytes(), "loose").unwrap();
    let found: Vec<_> = palettes.iter().map(|p| (p.name(), p.colors().to_vec())).collect();
    assert_eq!(found, [("loose 1", vec![red, blue]), ("Ünïcode 🎨", vec![green])]);
}

#[test]
fn swatches_of_every_color_model_become_srgb() {
    let file = Ase::default()
        .swatch("grey", b"Gray", &[0.5])
        .swatch("white", b"LAB ", &[1.0, 0.0, 0.0])
        .swatch("lab", b"LAB ", &[0.542_9, 80.81, 69.89])
        .swatch("cyan ink", b"CMYK", &[1.0, 0.0, 0.0, 0.0])
        .swatch("black ink", b"CMYK", &[0.0, 0.0, 0.0, 1.0])
        .swatch("beyond", b"RGB ", &[7.0, -3.0, 0.2]);
    let colors = hex(&parse(&file.bytes(), "x").unwrap()[0]);
    // L*a*b* 54.29 80.81 69.89 with D50 is the published value of pure sRGB red.
    assert_eq!(colors, ["#808080", "#FFFFFF", "#FF0000", "#00FFFF", "#000000", "#FF0033"]);
}

#[test]
fn broken_swatch_files_are_refused_with_the_offset() {
    let good = Ase::default().group("g").rgb(Rgb8::new(1, 2, 3)).end().bytes();
    for length in 4..good.len() - 6 {
        assert!(refusal(&good[..length]).starts_with("offset "), "{length}: {}", refusal(&good[..length]));
    }
    assert!(refusal(b"ASEF\0\x02\0\0\0\0\0\0").contains("version 2"));
    assert!(refusal(&Ase::default().bytes()).contains("no colours"));
    let text = refusal(&Ase::default().swatch("x", b"HSB ", &[0.0; 3]).bytes());
    assert!(text.starts_with("offset 24: ") && text.contains("HSB "), "{text}");
    let text = refusal(&Ase::default().swatch("x", b"RGB ", &[f32::NAN, 0.0, 0.0]).bytes());
    assert!(text.starts_with("offset 28: ") && text.contains("not a number"), "{text}");
    let mut lying = good;
    lying[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(refusal(&lying).contains("cut off"));
}

#[test]
fn unknown_blocks_of_later_versions_are_passed_over() {
    let file = Ase::default().block(0x7777, &[1, 2, 3]).rgb(Rgb8::new(9, 8, 7)).bytes();
    assert_eq!(hex(&parse(&file, "x").unwrap()[0]), ["#090807"]);
}

// ---------------------------------------------------------------------------------------------------------------- ACT

#[test]
fn color_tables_obey_their_count_and_transparent_entry() {
    let read = |tail| hex(&parse(&act(&terracotta(), tail), "t").unwrap()[0]);
    assert_eq!(read(Some([5, 0xFFFF])), TERRACOTTA);
    assert_eq!(read(Some([3, 1])), ["#264653", "#E9C46A"]);
    assert_eq!(read(None), TERRACOTTA, "black at the end is padding");
    assert_eq!(read(Some([7, 0xFFFF])).last().unwrap(), "#000000", "black within the count is meant");
}

#[test]
fn color_tables_with_too_many_colors_or_none_are_refused() {
    let ramp: Vec<Rgb8> = (0..=255).map(|v| Rgb8::new(v, v, v)).collect();
    let text = refusal(&act(&ramp, None));
    assert!(text.contains("256 distinct colours") && text.contains("64"), "{text}");
    assert!(refusal(&act(&ramp, Some([300, 0]))).starts_with("offset 768: "));
    assert!(refusal(&act(&ramp, Some([0, 0xFFFF]))).contains("no colours"));
    assert!(refusal(&act(&ramp, None)[..767]).contains("binary"));
}

#[test]
fn a_list_as_long_as_a_color_table_is_still_a_list() {
    for length in [768, 772] {
        let mut text = "#264653 #2A9D8F\n".to_owned();
        text.extend(std::iter::repeat_n(' ', length - text.len()));
        assert_one(&text, &TERRACOTTA[..2]);
    }
    // And a table that starts like UTF-16 is still a table.
    let file = act(&[Rgb8::new(255, 254, 253), Rgb8::new(90, 91, 92)], Some([2, 0xFFFF]));
    assert_eq!(hex(&parse(&file, "t").unwrap()[0]), ["#FFFEFD", "#5A5B5C"]);
}

// ---------------------------------------------------------------------------------------------------------------- GPL

#[test]
fn gimp_palettes_are_read_with_every_header_variant() {
    let colors = " 38  70  83\tPine: dark\n42 157 143\r\n\n# comment\n233,196,106 \n";
    for header in [
        "GIMP Palette\nName: Brand\nColumns: 5\n#\n",
        "GIMP Palette\r\nName: Brand\r\n",
        "\u{FEFF}GIMP Palette\nColumns: 5\nname : Brand\n",
        "gimp palette \n# made elsewhere\n#\nName:Brand\nChannels: RGBA\n",
        "\n\nGIMP Palette\rName: Brand\r",
    ] {
        assert_eq!(
            read(&format!("{header}{colors}")),
            [("Brand".to_owned(), TERRACOTTA[..3].iter().map(|c| c.to_string()).collect())]
        );
    }
    assert_one(&format!("GIMP Palette\n{colors}"), &TERRACOTTA[..3]);
}

#[test]
fn gimp_palettes_name_the_line_that_is_wrong_and_their_limit() {
    assert!(refusal(b"GIMP Palette\n#\n1 2 300 x\n").starts_with("line 3: 1 2 300"));
    assert!(refusal(b"GIMP Palette\n#264653\n1 2\n").starts_with("line 3: \"1 2\""));
    assert!(refusal(b"GIMP Palette\nName: x\n").contains("no colours"));
    let many: String = (0..200).map(|v| format!("{v} {v} {v}\n")).collect();
    let text = refusal(format!("GIMP Palette\nName: Big\n{many}").as_bytes());
    assert!(text.contains("\"Big\" has 200 distinct colours") && text.contains("64"), "{text}");
}

#[test]
fn names_in_an_old_encoding_do_not_stop_a_palette() {
    let palettes = parse(b"GIMP Palette\nName: Caf\xE9\n1 2 3\n", "x").unwrap();
    assert_eq!(palettes[0].name(), "Caf\u{FFFD}");
}

// --------------------------------------------------------------------------------------------------------------- text

#[test]
fn one_palette_is_read_from_every_spelling_of_a_list() {
    for text in [
        "#264653\n#2A9D8F\n#E9C46A",
        "264653\r\n2a9d8f\r\ne9c46a\r\n",
        "#264653 #2A9D8F #E9C46A",
        "264653, 2A9D8F, E9C46A",
        "\"#264653\", \"#2A9D8F\", \"#E9C46A\",",
        "#264653;#2A9D8F; #E9C46A;",
        "264653-2a9d8f-e9c46a",
        "https://coolors.co/palette/264653-2a9d8f-e9c46a",
        "https://example.org/about\n#264653\n#2A9D8F\n#E9C46A",
        "#264653FF\n#2A9D8F00\nE9C46A80",
        "0x264653\n0x2A9D8F\n0xE9C46A",
        "#264653 ; 41.20 %\n#2A9D8F // add 500\n#E9C46A # facade",
        "# a comment\n#another\n## Brand 2\n; third\n// fourth\n#264653\n#2A9D8F\n#E9C46A",
        "#264653 Pine 900\n#2A9D8F Bad sage\n#E9C46A Decade 2023",
        "primary-ink: #264653;\n--sage: #2A9D8F;\n--straw: #E9C46A;",
        "\"ink\": \"#264653\",\n\"sage\": \"#2A9D8F\",\n\"straw\": \"#E9C46A\"",
        "38 70 83\n42\t157 143 Sage 50%\n233,196,106",
        "JASC-PAL\n0100\n3\n38 70 83\n42 157 143\n233 196 106\n",
        ";paint.net Palette File\n;Colors: 3\nFF264653\nFF2A9D8F\nFFE9C46A\n",
        "#264653\n\n#2A9D8F\n\n\n#E9C46A\n",
        "#264653\n#264653FF\n#2A9D8F\n#E9C46A\n\u{1A}",
    ] {
        assert_one(text, &TERRACOTTA[..3]);
    }
    let wide: Vec<u8> = "\u{FEFF}#264653\r\n#2A9D8F".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(hex(&parse(&wide, "x").unwrap()[0]), TERRACOTTA[..2]);
}

#[test]
fn several_palettes_are_told_apart_by_lines_blanks_and_names() {
    let expect = |text: &str, palettes: &[(&str, &[&str])]| {
        let palettes: Vec<_> = (palettes.iter())
            .map(|(name, colors)| (name.to_string(), colors.iter().map(|c| c.to_string()).collect::<Vec<_>>()))
            .collect();
        assert_eq!(read(text), palettes, "{text}");
    };
    let [a, b, c, d] = [&["#AA0000", "#AA0011"][..], &["#BB0000", "#BB0011"], &["#CC0000"], &["#DD0000", "#DD0011"]];
    expect("#a00 #AA0011\n#b00 #BB0011\n", &[("file 1", a), ("file 2", b)]);
    expect("#AA0000\n#AA0011\n\n#BB0000\n#BB0011\n\n#CC0000", &[("file 1", a), ("file 2", b), ("file 3", c)]);
    expect("Fee: #AA0000 #AA0011\nDark: BB0000, BB0011", &[("Fee", a), ("Dark", b)]);
    expect("Red:\n#AA0000\n#AA0011\nBlue:\n\n#BB0000 #BB0011", &[("Red", a), ("Blue", b)]);
    expect(
        "Warm: #AA0000 #AA0011\n#BB0000 #BB0011\nLast one:\n#DD0000\n#DD0011",
        &[("Warm", a), ("file 2", b), ("Last one", d)],
    );
    expect("Same: #AA0000 #AA0011\nSame: #BB0000 #BB0011", &[("Same", a), ("Same", b)]);
}

#[test]
fn a_role_before_a_single_color_is_its_role() {
    let palettes = parse(b"Primary: #264653\nbackground: #E9C46A\nother: #F4A261\n", "x").unwrap();
    assert_eq!(palettes.len(), 1);
    assert_eq!(labels(&palettes[0]), [Some(Role::Primary), Some(Role::Background), None]);
}

#[test]
fn mistyped_colors_are_refused_with_their_line_and_never_read_as_comments() {
    for (text, line, word) in [
        ("#264653\n#2A9D8\n", 2, "#2A9D8"),
        ("#264653 #2A9D8\n", 1, "#2A9D8"),
        ("264653 2A9D8\n", 1, "2A9D8"),
        ("#264653, 2A9D8\n", 1, "2A9D8"),
        ("#26465G\n", 1, "#26465G"),
        ("#12345\n", 1, "#12345"),
        ("#1\n", 1, "#1"),
        ("\n\nteal\n", 3, "teal"),
        ("Warm: teal\n", 1, "teal"),
        ("Warm:\n\n", 1, "Warm"),
        (": #264653\n", 1, "no name"),
        ("264 653 299\n", 1, "0 to 255"),
        ("10 20 30, 40 50 60\n", 1, "one R G B"),
    ] {
        let error = refusal(text.as_bytes());
        assert!(error.starts_with(&format!("line {line}: ")) && error.contains(word), "{text}: {error}");
    }
}

#[test]
fn empty_foreign_and_oversized_files_are_refused() {
    for text in ["", "  \n \r\n", "# only\n; comments\n", "[]", "{}", "{\"palettes\": []}", "\u{FEFF}"] {
        assert!(refusal(text.as_bytes()).contains("no colours"), "{text}");
    }
    assert!(refusal(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR").contains("binary"));
    assert_eq!(
        parse(&vec![b' '; MAX_FILE_BYTES + 1], "x"),
        Err(PaletteFileError::TooLarge { bytes: MAX_FILE_BYTES + 1 })
    );
    let line = "#111111 #222222\n".repeat(1025);
    assert_eq!(parse(line.as_bytes(), "x"), Err(PaletteFileError::TooManyPalettes { got: 1025 }));
    assert_eq!(parse("#111111 #222222\n".repeat(1024).as_bytes(), "x").map(|p| p.len()), Ok(1024));
    assert!(refusal(format!("{}: #111 #222", "n".repeat(201)).as_bytes()).contains("201 characters"));
}

#[test]
fn a_file_full_of_distinct_colors_is_refused_quickly() {
    let list: String = (0..500_000).map(|v| format!("{v:06X}\n")).collect();
    let start = std::time::Instant::now();
    assert!(refusal(list.as_bytes()).contains("500000 distinct colours"));
    // Comparing every pair would take minutes.
    assert!(start.elapsed().as_secs() < 20);
}

// --------------------------------------------------------------------------------------------------------------- JSON

#[test]
fn json_is_read_in_every_form_users_have() {
    let spec = r##"{"name": "file", "colors": ["#264653", "2A9D8F", "#E9C46AFF"]}"##;
    let list = r##"["#264653", "#2A9D8F", "#E9C46A"]"##;
    for text in [
        format!("[{spec}]"),
        spec.to_owned(),
        format!("{{\"version\": 3, \"palettes\": [{spec}], \"more\": {{\"x\": [1, null, true]}}}}"),
        format!("{{\"file\": {list}}}"),
        format!("{{\"palettes\": {{\"file\": {list}}}}}"),
        format!("{{\"file\": {{\"colors\": {list}}}}}"),
        format!("{{\"palettes\": {list}}}"),
        format!("{{\"colors\": {list}, \"description\": null}}"),
        format!("[{list}]"),
        list.to_owned(),
    ] {
        assert_one(&text, &TERRACOTTA[..3]);
        assert_one(&format!("\u{FEFF} \n{text}\n"), &TERRACOTTA[..3]);
    }
}

#[test]
fn json_objects_keep_the_order_in_which_they_were_written() {
    let names: Vec<_> =
        read(r##"{"Zebra": ["#111"], "Apple": ["#222"], "Mango": ["#333"]}"##).into_iter().map(|p| p.0).collect();
    assert_eq!(names, ["Zebra", "Apple", "Mango"]);
}

#[test]
fn json_errors_name_the_place_and_the_cure() {
    for (text, place, word) in [
        ("[1, 2", "the palette file is not valid JSON", "line 1, column 5"),
        ("{\"a\": [\"#111\"],\n}", "the palette file is not valid JSON", "line 2"),
        ("[\"#111\"] x", "the palette file is not valid JSON", "column 10"),
        ("[{\"name\": \"a\"}]", "[0]: ", "\"colors\""),
        ("[{\"name\": \"a\", \"colours\": []}]", "[0].colours: ", "\"colors\""),
        ("[{\"name\": \"a\", \"colors\": [], \"weight\": 1}]", "[0].weight: ", "roles, pins"),
        ("[{\"name\": \"a\", \"name\": \"b\", \"colors\": []}]", "[0].name: ", "twice"),
        ("{\"palettes\": [{\"name\": 7, \"colors\": []}]}", "palettes[0].name: ", "in quotes"),
        ("[[\"#111\"], [\"#222\", 5]]", "[1][1]: ", "number"),
        ("{\"Warm\": \"#111\"}", "[\"Warm\"]: ", "text"),
        ("{\"palettes\": {\"generate\": 7}}", "palettes: ", "job"),
        ("[{\"name\": \"a\", \"colors\": [\"#111\", \"red\"]}]", "palette 1 (\"a\"), colors[1]: ", "#RRGGBB"),
        ("[{\"name\": \"a\", \"colors\": []}]", "palette 1 (\"a\"), colors: ", "at least one"),
        ("[{\"name\": \" \", \"colors\": [\"#111\"]}]", "palette 1, name: ", "name it"),
    ] {
        let error = refusal(text.as_bytes());
        assert!(error.starts_with(place) && error.contains(word), "{text}: {error}");
    }
}

#[test]
fn deep_and_endless_json_is_refused() {
    assert!(refusal("[".repeat(1_000_000).as_bytes()).contains("not valid JSON"));
    assert!(refusal("{\"a\":".repeat(500_000).as_bytes()).contains("not valid JSON"));
    assert!(refusal(format!("[{}0]", "0,".repeat(1_000_000)).as_bytes()).contains("no palette file"));
}

// ---------------------------------------------------------------------------------------------------------- job specs

fn spec(edit: impl FnOnce(&mut PaletteSpec)) -> PaletteSpec {
    let mut spec = PaletteSpec {
        name: "Warm".into(),
        colors: TERRACOTTA.iter().map(|c| c.to_string()).collect(),
        ..PaletteSpec::default()
    };
    edit(&mut spec);
    spec
}

#[test]
fn specs_become_palettes_with_roles_pins_and_protected_colors() {
    let spec = spec(|s| {
        s.name = " Warm ".into();
        s.description = Some("Clay".into());
        s.colors.push("264653".into());
        s.roles = [("BackGround".to_owned(), "#e9c46a".to_owned())].into();
        s.pins = [("#1D3557".to_owned(), "#264653".to_owned())].into();
        s.protect = vec!["#FFF".into(), "#FFFFFF".into()];
    });
    let palette = &from_specs(&[spec]).unwrap()[0];
    assert_eq!((palette.name(), palette.description()), ("Warm", Some("Clay")));
    assert_eq!(hex(palette), TERRACOTTA, "repeated colours are kept once");
    assert_eq!(palette.roles(), [(Role::Background, Rgb8::new(0xE9, 0xC4, 0x6A))]);
    assert_eq!(palette.pins(), [(Rgb8::new(0x1D, 0x35, 0x57), Rgb8::new(0x26, 0x46, 0x53))]);
    assert_eq!(palette.protect(), [Rgb8::new(255, 255, 255)]);
}

#[test]
fn bad_specs_name_the_palette_and_the_field() {
    let pair = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    let cases: [(PaletteSpec, &str, &str); 9] = [
        (spec(|s| s.colors[3] = "#12".into()), "colors[3]", "#RRGGBB"),
        (spec(|s| s.roles = pair("hero", "#264653")), "roles", "primary, secondary, accent, background, highlight"),
        (spec(|s| s.roles = pair("accent", "#000")), "roles", "not one of its colours; add it to colors"),
        (spec(|s| s.roles = pair("accent", "gold")), "roles.accent", "not a colour"),
        (spec(|s| s.pins = pair("#000", "#010101")), "pins", "not one of its colours; add it to colors"),
        (spec(|s| s.pins = pair("ink", "#264653")), "pins", "\"ink\" is not a colour"),
        (spec(|s| s.protect = vec!["white".into()]), "protect[0]", "not a colour"),
        (spec(|s| s.protect = vec!["#FFF".into(); 257]), "protect", "257 entries"),
        (spec(|s| s.colors = (0..65).map(|v| format!("{v:06}")).collect()), "colors", "65 distinct colours"),
    ];
    for (bad, field, word) in cases {
        let error = from_specs(&[spec(|_| ()), bad]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("palette 2 (\"Warm\"), {field}: ")) && error.contains(word), "{error}");
    }
    let mut twice = spec(|_| ());
    twice.roles = [("Accent", "#264653"), ("accent", "#2A9D8F")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    assert!(from_specs(&[twice]).unwrap_err().to_string().contains("accent is given twice"));
}

#[test]
fn five_positional_colors_are_labelled_and_explicit_roles_replace_the_positions() {
    let five = &from_specs(&[spec(|_| ())]).unwrap()[0];
    assert_eq!(labels(five), Role::ALL.map(Some));
    let four = &from_specs(&[spec(|s| s.colors.truncate(4))]).unwrap()[0];
    assert_eq!(labels(four), [None; 4]);
    let explicit = spec(|s| s.roles = [("highlight".to_owned(), "#264653".to_owned())].into());
    assert_eq!(labels(&from_specs(&[explicit]).unwrap()[0]), [Some(Role::Highlight), None, None, None, None]);
}

// ----------------------------------------------------------------------------------------------------------------- job

#[test]
fn the_documented_job_is_read() {
    let job = Job::from_json(
        r##"{ "job_id": "j1", "user_id": "u_123", "source": "gs://bucket/path.png",
          "palettes": [ { "name": "Warm", "description": "…", "colors": ["#264653", "#2A9D8F", "#E9C46A", "#F4A261", "#E76F51"],
                          "roles": { "background": "#E9C46A" }, "pins": { "#1D3557": "#264653" }, "protect": ["#FFFFFF"] } ],
          "recolor": { "mode": "soft", "strength": 1.0 }, "background": { "action": "keep", "fill": "transparent" },
          "effects": ["enhanced-bw"],
          "outputs": [ { "format": "jpeg", "quality": 85 }, { "format": "png", "max_dimension": 512 } ],
          "destination": "gs://bucket/prefix" }"##
            .as_bytes(),
    )
    .unwrap();
    let PaletteRequest::List(specs) = &job.palettes else { panic!("a list was given") };
    assert_eq!(from_specs(specs).unwrap()[0].name(), "Warm");
    assert_eq!(job.outputs.len(), 2);
    assert!(Job::from_json(br#"{"source": "a.png", "palettes": {"generate": 7}}"#).is_ok());
}

#[test]
fn bad_jobs_are_refused_with_the_field_and_the_cure() {
    for (rest, word) in [
        ("", "nothing to make"),
        (r#", "palettes": []"#, "nothing to make"),
        (r#", "palettes": 7"#, "palettes: write a list"),
        (r#", "palettes": {"generate": 0}"#, "palettes.generate: 0 is not in 1 to 64"),
        (r#", "palettes": {"generate": 65}"#, "palettes.generate: 65 is not in 1 to 64"),
        (r#", "palettes": {"generates": 7}"#, "unknown field `generates`"),
        (r##", "palettes": [{"name": "a", "colors": ["#111"], "rolls": {}}]"##, "palettes[0]: unknown field `rolls`"),
        (r#", "palettes": [{"name": "a"}]"#, "palettes[0]: missing field `colors`"),
        (r#", "palettes": {"generate": 1}, "recolor": {"strength": 1.5}"#, "recolor.strength: 1.5"),
        (r#", "palettes": {"generate": 1}, "recolor": {"mode": "hard"}"#, "unknown variant `hard`"),
        (r#", "palettes": {"generate": 1}, "outputs": [{"format": "png", "quality": 0}]"#, "outputs[0].quality: 0"),
        (
            r#", "palettes": {"generate": 1}, "outputs": [{"format": "png", "max_dimension": 0}]"#,
            "outputs[0].max_dimension",
        ),
        (r#", "palettes": {"generate": 1}, "colour": 1"#, "unknown field `colour`"),
        (r#", "palettes": "#, "line 1"),
    ] {
        let text = format!(r#"{{"source": "a.png"{rest}}}"#);
        let error = Job::from_json(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(word), "{text}: {error}");
    }
    assert!(
        Job::from_json(br#"{"source": " ", "palettes": {"generate": 1}}"#).unwrap_err().to_string().contains("source")
    );
    assert!(matches!(Job::from_json(&vec![b' '; (4 << 20) + 1]), Err(JobError::TooLarge { .. })));
}

// ------------------------------------------------------------------------------------------------------------- writers

#[test]
fn written_palettes_look_as_documented() {
    let colors = [(Rgb8::new(38, 70, 83), 0.5), (Rgb8::new(233, 196, 106), 1.0 / 3.0)];
    assert_eq!(to_hex(&colors), "#264653 ; 50.00 %\n#E9C46A ; 33.33 %\n");
    assert_eq!(
        to_gpl("a\nb", &colors),
        "GIMP Palette\nName: a b\nColumns: 2\n#\n 38  70  83\t#264653 50.00 %\n233 196 106\t#E9C46A 33.33 %\n"
    );
    let json: serde_json::Value = serde_json::from_str(&to_json("a", &colors)).unwrap();
    assert_eq!(json["palettes"][0]["colors"][1], "#E9C46A");
    assert_eq!(json["shares"][1]["color"], "#E9C46A");
    assert_eq!(json["shares"][1]["share"], 0.333333);
}

fn any_color() -> impl Strategy<Value = Rgb8> {
    any::<[u8; 3]>().prop_map(|[r, g, b]| Rgb8::new(r, g, b))
}

/// Pieces of real files, so that random lines reach every branch.
fn any_line() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "#264653",
        "#2A9D8",
        "2a9d8f",
        "#abc",
        "Name:",
        "Columns: 3",
        "GIMP Palette",
        "JASC-PAL",
        ";paint.net",
        "//",
        "#",
        ";",
        ":",
        ",",
        "255",
        "0",
        "300",
        " ",
        "\t",
        "add",
        "primary:",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "\"colors\"",
        "\"palettes\":",
        "https://x/264653-2a9d8f",
        "é",
        "\u{1A}",
        "\r",
        "FF264653",
    ]);
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.join(" "))
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..900)) {
        let _ = parse(&bytes, "x");
        let _ = Job::from_json(&bytes);
        let _ = parse(&[b"ASEF\0\x01\0\0\0\0\0\x09".as_slice(), &bytes].concat(), "x");
    }

    #[test]
    fn no_table_makes_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 772), long in any::<bool>()) {
        let _ = parse(&bytes[..if long { 772 } else { 768 }], "x");
    }

    #[test]
    fn no_text_makes_the_reader_panic(lines in prop::collection::vec(any_line(), 0..12)) {
        if let Ok(palettes) = parse(lines.join("\n").as_bytes(), "x") {
            prop_assert!(!palettes.is_empty());
        }
    }

    #[test]
    fn mutated_samples_never_panic(
        file in prop::sample::select(vec!["brand.json", "roles.json", "brand.gpl", "brand.hex", "brand.ase", "brand.act"]),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = fixture(file);
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = parse(&bytes, "x");
        let _ = parse(&bytes[..cut.index(bytes.len())], "x");
    }

    #[test]
    fn what_is_written_is_read_back(
        name in "[^\\p{C}]{0,40}",
        colors in prop::collection::hash_set(any_color(), 1..=64),
    ) {
        let share = 1.0 / colors.len() as f64;
        let colors: Vec<(Rgb8, f64)> = colors.into_iter().map(|color| (color, share)).collect();
        let plain: Vec<Rgb8> = colors.iter().map(|(color, _)| *color).collect();
        let name = name.trim();
        for text in [to_gpl(name, &colors), to_json(name, &colors), to_hex(&colors)] {
            let palettes = parse(text.as_bytes(), "stem").map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
            prop_assert_eq!(palettes.len(), 1);
            prop_assert_eq!(palettes[0].colors(), &plain[..]);
            let named = !name.is_empty() && !text.starts_with('#');
            prop_assert_eq!(palettes[0].name(), if named { name } else { "stem" });
        }
    }
}
