//! SQL as it stands in its file, made ready for a schema.

/// How a function plans that looks things up: once a session, and each look by index, whatever the
/// statistics say then. The schema says why, before its first function.
const BY_INDEX: &str = "SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
    SET enable_hashjoin = off SET enable_mergejoin = off";

/// With the name of the schema, and with what functions say of their plans.
pub(super) fn for_schema(sql: &str, schema: &str) -> String {
    let sql = sql.replace("{by_index}", BY_INDEX);
    sql.replace("{schema}", &format!("\"{schema}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_to_be_put_in() {
        let sql = for_schema("{schema}.f() {by_index} {schema}.g()", "shop");
        let planned = "SET plan_cache_mode = force_generic_plan SET enable_seqscan = off\n    \
                       SET enable_hashjoin = off SET enable_mergejoin = off";
        assert_eq!(sql, format!("\"shop\".f() {planned} \"shop\".g()"));
    }
}
