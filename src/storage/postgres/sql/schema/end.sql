    UPDATE {schema}.version SET version = {version};
    PERFORM set_config('search_path', path, true);
END
$migrate$;
