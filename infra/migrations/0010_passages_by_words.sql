-- databases: vectors
-- Row-level security keeps readers off the index on fts: `@@` is not leakproof, so Postgres tries it only on rows that
-- it has already found visible, one by one. These functions use the index as the table's owner and hand out what the
-- policy "people read their own and what is for everyone" lets the caller read, and nothing else.

create function agentkit.any_of(lexemes text[]) returns tsquery
language sql immutable parallel safe
return (
  select string_agg('''' || replace(replace(lexeme, '\', '\\'), '''', '''''') || '''', ' | ')::tsquery
  from unnest(lexemes) as lexeme
);
comment on function agentkit.any_of is 'Matches what holds at least one of these; null when there are none.';

-- Frequencies are those that `analyze` found; what it did not list is rare.
create function agentkit.rare_words(asked tsvector) returns tsquery
language sql stable security definer set search_path = ''
return (
  with
    frequencies as (
      select listed.lexeme, listed.frequency
      from pg_stats, unnest(most_common_elems::text::text[], most_common_elem_freqs) as listed (lexeme, frequency)
      where schemaname = 'vecs' and tablename = 'passages' and attname = 'fts'
    ),
    rarest_first as (
      select lexeme, sum(coalesce(frequency, 0)) over (order by coalesce(frequency, 0), lexeme) as together
      from unnest(tsvector_to_array(asked)) as lexeme left join frequencies using (lexeme)
    )
  select agentkit.any_of(array_agg(lexeme))
  from rarest_first
  where together * (select reltuples from pg_class where oid = 'vecs.passages'::regclass) <= 5000
);
comment on function agentkit.rare_words is 'Any of those words that together stand in some 5,000 passages at most.';

create function agentkit.passages_with(words tsquery, only_documents uuid[], at_most integer)
returns table (id varchar, fts tsvector)
language sql stable security definer
-- A search switches bitmap scans off, and an index of words can be read in no other way.
set search_path = '' set enable_bitmapscan = on set enable_seqscan = off
begin atomic
  select p.id, p.fts
  from vecs.passages as p
  where p.fts @@ words
    and (p.owner = (select auth.uid()) or p.audience = 'everyone')
    and (only_documents is null or p.document_id = any(only_documents))
  limit at_most;
end;
comment on function agentkit.passages_with is 'Passages that the caller may read and that match, in no order.';

revoke all on function agentkit.any_of, agentkit.rare_words, agentkit.passages_with from public;
grant execute on function agentkit.any_of, agentkit.rare_words, agentkit.passages_with to authenticated;
