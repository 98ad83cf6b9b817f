    COMMENT ON SCHEMA {schema} IS 'flowstream: streams inside this database';
END
$migrate$;
