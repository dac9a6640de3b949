"""The functions of PostgreSQL that `mlux sql` calls: they answer from their arguments.

None reads files, settings or other sessions, none acts, none runs a text as SQL. Types stand here
too where a function has their name, as in `numeric(10, 2)`.
"""

_LISTED = """
array_agg any_value avg bit_and bit_or bit_xor bool_and bool_or count every json_agg
json_object_agg jsonb_agg jsonb_object_agg max min range_agg string_agg sum
corr covar_pop covar_samp regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope
regr_sxx regr_sxy regr_syy stddev stddev_pop stddev_samp var_pop var_samp variance
mode percentile_cont percentile_disc cume_dist dense_rank percent_rank rank grouping
row_number ntile lag lead first_value last_value nth_value

abs acos acosd acosh asin asind asinh atan atan2 atan2d atand atanh cbrt ceil ceiling cos cosd
cosh cot cotd degrees div erf erfc exp factorial floor gamma gcd lcm lgamma ln log log10
min_scale mod numeric pi pow power radians random random_normal round scale sign sin sind sinh
sqrt tan tand tanh trim_scale trunc width_bucket greatest least

ascii bit bit_count bit_length bpchar btrim casefold char char_length character_length chr
concat concat_ws convert_from convert_to decode encode format initcap left length like lower
lpad ltrim md5 name normalize notlike octet_length overlay position quote_ident quote_literal
quote_nullable regexp_count regexp_instr regexp_like regexp_match regexp_matches
regexp_replace regexp_split_to_array regexp_split_to_table regexp_substr repeat replace
reverse right rpad rtrim sha224 sha256 sha384 sha512 split_part starts_with string_to_array
string_to_table strpos substr substring text textcat texteq to_ascii to_hex translate
unicode_assigned unistr upper varchar

age clock_timestamp date date_add date_bin date_part date_subtract date_trunc extract interval
isfinite justify_days justify_hours justify_interval make_date make_interval make_time
make_timestamp make_timestamptz now overlaps statement_timestamp time timeofday timestamp
timestamptz timetz timezone to_char to_date to_number to_timestamp transaction_timestamp

array_append array_cat array_dims array_fill array_length array_lower array_ndims
array_position array_positions array_prepend array_remove array_replace array_reverse
array_sample array_shuffle array_sort array_to_json array_to_string array_upper cardinality
generate_series generate_subscripts trim_array unnest
json_array_elements json_array_elements_text json_array_length json_build_array
json_build_object json_each json_each_text json_extract_path json_extract_path_text
json_object json_object_keys json_strip_nulls json_to_record json_to_recordset json_typeof
jsonb_array_elements jsonb_array_elements_text jsonb_array_length jsonb_build_array
jsonb_build_object jsonb_each jsonb_each_text jsonb_exists jsonb_extract_path
jsonb_extract_path_text jsonb_object jsonb_object_keys jsonb_path_exists jsonb_path_match
jsonb_path_query jsonb_path_query_array jsonb_path_query_first jsonb_pretty
jsonb_strip_nulls jsonb_to_record jsonb_to_recordset jsonb_typeof row_to_json to_json to_jsonb

bool float4 float8 gen_random_uuid int2 int4 int8 isempty lower_inc lower_inf num_nonnulls
num_nulls numrange int4range int8range upper_inc upper_inf
"""

FUNCTIONS = frozenset(_LISTED.split())
"""Their names; each is of the server itself (`pg_catalog`)."""
