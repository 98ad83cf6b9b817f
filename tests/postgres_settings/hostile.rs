//! A search path on which everything that the server has built in is found first as something else.

use std::sync::Once;

use crate::settings::Setting;
use crate::{cluster, database};

/// A function for each that is built in, with the same arguments, an operator for each, and a type for
/// those that our SQL names: whoever uses one is told.
const SHADOWS: &str = r"
    CREATE SCHEMA shadows;
    DO $do$
    DECLARE
        f record;
        o record;
        name text;
    BEGIN
        FOR f IN
            SELECT p.oid, p.proname, format_type(p.prorettype, NULL) AS result, p.proretset,
                coalesce((SELECT string_agg(format_type(t, NULL), ', ' ORDER BY n)
                    FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY a (t, n)), '') AS arguments
            FROM pg_proc p
            WHERE p.pronamespace = 'pg_catalog'::regnamespace
                -- What is called by the server alone, or by no SQL of anybody.
                AND NOT p.proargtypes::oid[] && ARRAY['internal'::regtype, 'cstring'::regtype]::oid[]
                AND p.prorettype NOT IN ('internal'::regtype, 'cstring'::regtype, 'trigger'::regtype)
        LOOP
            BEGIN
                EXECUTE format(
                    'CREATE FUNCTION shadows.%I(%s) RETURNS %s %s LANGUAGE plpgsql AS %L',
                    f.proname, f.arguments, CASE WHEN f.proretset THEN 'SETOF' END, f.result,
                    format('BEGIN RAISE EXCEPTION %L; END', f.proname || ' of somebody else was called'));
            EXCEPTION WHEN others THEN
                -- There is no such function in SQL.
            END;
        END LOOP;
        FOR o IN
            SELECT x.oid, x.oprname, format_type(x.oprresult, NULL) AS result,
                CASE WHEN x.oprleft <> 0 THEN format_type(x.oprleft, NULL) END AS l,
                format_type(x.oprright, NULL) AS r
            FROM pg_operator x
            WHERE x.oprnamespace = 'pg_catalog'::regnamespace AND x.oprcode <> 0
        LOOP
            BEGIN
                EXECUTE format(
                    'CREATE FUNCTION shadows.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L',
                    'operator ' || o.oid, concat_ws(', ', o.l, o.r), o.result,
                    format('BEGIN RAISE EXCEPTION %L; END', o.oprname || ' of somebody else was called'));
                EXECUTE format(
                    'CREATE OPERATOR shadows.%s (FUNCTION = shadows.%I, %s RIGHTARG = %s)',
                    o.oprname, 'operator ' || o.oid, 'LEFTARG = ' || o.l || ',', o.r);
            EXCEPTION WHEN others THEN
            END;
        END LOOP;
        FOREACH name IN ARRAY ARRAY[
            'text', 'bytea', 'uuid', 'timestamptz', 'int8range', 'int8multirange', 'jsonb', 'xid8',
            'pg_snapshot', 'regnamespace', 'regclass', 'int4', 'int8', 'bool', 'name', 'oid', 'void',
            'record'
        ] LOOP
            EXECUTE format('CREATE TYPE shadows.%I AS ENUM (%L)', name, 'of somebody else');
        END LOOP;
    END
    $do$";

/// A database that has them, to make others of.
fn template() -> &'static str {
    static MADE: Once = Once::new();
    MADE.call_once(|| {
        cluster().psql("postgres", "CREATE DATABASE shadowed");
        cluster().psql("shadowed", SHADOWS);
        let made = "SELECT count(*) > 1000 FROM pg_proc
            WHERE pronamespace = 'shadows'::regnamespace";
        assert_eq!(cluster().psql("shadowed", made).trim(), "t");
    });
    "TEMPLATE shadowed"
}

pub(crate) fn settings() -> Vec<Setting> {
    let hostile = "search_path = shadows, pg_catalog";
    let sql = format!("ALTER DATABASE {{database}} SET {hostile}");
    let mut setting = Setting::new(&format!("{hostile}: all that is built in"), vec![sql]);
    setting.database = template().to_owned();
    vec![setting]
}

/// What is looked up when a function runs is looked up where nobody has put anything; all else was looked
/// up when the schema was made.
#[tokio::test]
async fn each_function_says_where_it_looks() {
    let database = database("");
    let flow = flowstream::open(&cluster().url(&database)).await;
    drop(flow.expect("it opens"));
    let others = "SELECT p.proname FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
        WHERE p.pronamespace = 'flowstream'::regnamespace AND NOT CASE l.lanname
            WHEN 'plpgsql' THEN p.proname IN ('begin_write', 'advance') OR coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false)
            ELSE p.prosqlbody IS NOT NULL
        END";
    assert_eq!(cluster().psql(&database, others).trim(), "");
}

/// In its transaction somebody may do other things as well.
#[tokio::test]
async fn making_the_schema_by_hand_leaves_the_search_path_as_it_is() {
    let database = database("");
    let sql = flowstream::Flowstream::schema_sql();
    for _ in 0..2 {
        let sql = format!("SET search_path = 'of mine', public; BEGIN; {sql}; SHOW search_path");
        let path = cluster().psql(&database, &sql);
        assert_eq!(path.trim(), "\"of mine\", public");
    }
}
