//! The document on the interface (OpenAPI 3.1), made from the table of routes and the shapes.

use serde_json::Value;

use super::api::{Gives, Object, Route, content_type};
use super::figures::FIGURES;
use super::shapes::{self, Field, Kind, Shape};

/// The whole document.
pub(super) fn document(routes: &'static [Route]) -> Object {
    let mut schemas = Vec::new();
    let mut paths: Vec<(&str, Object)> = Vec::new();
    for route in routes {
        let operation = operation(route, &mut schemas);
        let method = route.method.name().to_lowercase();
        match paths.last_mut() {
            Some((path, methods)) if *path == route.path => {
                *methods = std::mem::take(methods).with(&method, operation);
            }
            _ => paths.push((route.path, Object::default().with(&method, operation))),
        }
    }
    let of_all = |object: Object, (path, methods): (&str, Object)| object.with(path, methods);
    let paths = paths.into_iter().fold(Object::default(), of_all);
    let mut described = Object::default();
    let mut next = 0;
    // Describing one may name others.
    while let Some(&shape) = schemas.get(next) {
        described = described.with(shape.name, schema_of(shape, &mut schemas));
        next += 1;
    }
    let token = Object::default().with("type", "http").with("scheme", "bearer");
    let info = Object::default()
        .with("title", "Tidegate's operator interface")
        .with("version", env!("CARGO_PKG_VERSION"));
    let components = Object::default()
        .with("schemas", described)
        .with("securitySchemes", Object::default().with("token", token));
    Object::default()
        .with("openapi", "3.1.0")
        .with("info", info)
        .with("paths", paths)
        .with("components", components)
}

fn operation(route: &'static Route, schemas: &mut Vec<&'static Shape>) -> Object {
    let mut parameters = Vec::new();
    let mut parameter = |name: &str, place: &str, about: &str| {
        let described = Object::default()
            .with("name", name)
            .with("in", place)
            .with("required", place == "path")
            .with("description", about)
            .with("schema", of_type("string"));
        parameters.push(Value::from(described));
    };
    if let Some((_, name)) = route.path.split_once('{') {
        let name = name.trim_end_matches('}');
        parameter(name, "path", "Percent-encoded, each \"/\" in it as %2F.");
    }
    for of_query in route.parameters {
        parameter(of_query.name, "query", of_query.about);
    }
    let success = match route.gives {
        Gives::Json(shape) => answer("Done.", content_type(route.gives), reference(shape, schemas)),
        Gives::Metrics => answer("Done.", content_type(route.gives), of_type("string")),
        Gives::Document => answer("Done.", content_type(route.gives), of_type("object")),
        Gives::Nothing => Object::default().with("description", "Done."),
    };
    let status = if matches!(route.gives, Gives::Nothing) {
        "204"
    } else {
        "200"
    };
    let mut responses = Object::default().with(status, success);
    for &status in route.troubles {
        let described = answer(
            "What is wrong.",
            super::http::JSON,
            reference(&shapes::ERROR, schemas),
        );
        responses = responses.with(&status.to_string(), described);
    }
    let mut operation = Object::default()
        .with("summary", route.summary)
        .with("parameters", parameters);
    if let Some(shape) = route.takes {
        let body = content(super::http::JSON, reference(shape, schemas)).with("required", true);
        operation = operation.with("requestBody", body);
    }
    let token = Object::default().with("token", Vec::<Value>::new());
    let security = if route.is_open {
        Vec::new()
    } else {
        vec![Value::from(token)]
    };
    operation.with("security", security).with("responses", responses)
}

fn answer(description: &str, media_type: &str, schema: Object) -> Object {
    content(media_type, schema).with("description", description)
}

fn content(media_type: &str, schema: Object) -> Object {
    let schema = Object::default().with("schema", schema);
    Object::default().with("content", Object::default().with(media_type, schema))
}

fn of_type(name: &str) -> Object {
    Object::default().with("type", name)
}

fn reference(shape: &'static Shape, schemas: &mut Vec<&'static Shape>) -> Object {
    if !schemas.iter().any(|known| known.name == shape.name) {
        schemas.push(shape);
    }
    Object::default().with("$ref", format!("#/components/schemas/{}", shape.name))
}

fn schema_of(shape: &'static Shape, schemas: &mut Vec<&'static Shape>) -> Object {
    let (mut properties, mut required) = (Object::default(), Vec::new());
    for field in shape.fields {
        properties = properties.with(field.name, property(field, schemas));
        if !field.is_optional {
            required.push(Value::from(field.name));
        }
    }
    object_of(properties, required)
}

fn object_of(properties: Object, required: Vec<Value>) -> Object {
    of_type("object")
        .with("properties", properties)
        .with("required", required)
        .with("additionalProperties", false)
}

fn property(field: &'static Field, schemas: &mut Vec<&'static Shape>) -> Object {
    let words = |words: &[&str]| words.iter().map(|&word| Value::from(word)).collect::<Vec<_>>();
    let list = |items: Object| of_type("array").with("items", items);
    let schema = match field.kind {
        Kind::Text => of_type("string"),
        Kind::Word(known) => of_type("string").with("enum", words(known)),
        Kind::Integer => of_type("integer").with("minimum", 0),
        Kind::Flag => of_type("boolean"),
        Kind::Object(shape) => reference(shape, schemas),
        Kind::Objects(shape) => list(reference(shape, schemas)),
        Kind::Texts => list(of_type("string")),
        Kind::Any => Object::default(),
        Kind::Figures => {
            let (mut properties, mut required) = (Object::default(), Vec::new());
            for figure in FIGURES {
                let schema = of_type("integer").with("description", figure.about);
                properties = properties.with(&figure.key(), schema);
                required.push(Value::from(figure.key()));
            }
            object_of(properties, required)
        }
    };
    let is_any = matches!(field.kind, Kind::Any);
    let schema = if field.is_optional && !is_any {
        let null = Value::from(of_type("null"));
        Object::default().with("anyOf", vec![Value::from(schema), null])
    } else {
        schema
    };
    schema.with("description", field.about)
}
