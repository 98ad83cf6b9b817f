    UPDATE {schema}.version SET version = {version};
    COMMENT ON SCHEMA {schema} IS 'flowstream: streams inside this database';
END
$migrate$;
