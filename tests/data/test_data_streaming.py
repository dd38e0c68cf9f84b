import gzip
import json
from collections import Counter

import datasets
import numpy as np
import pytest
import torch
import zstandard

from sdtt.data import encoding, parts
from sdtt.data.encoding import encode_texts
from sdtt.data.lanes import Dealer, Start, lanes_of_process, weight
from sdtt.data.packing import load_blocks
from sdtt.data.parts import parts_of
from sdtt.data.split import split_by_hash
from sdtt.data.stream_state import StreamSettings, StreamState
from sdtt.data.streaming import stream_blocks
from sdtt.data.tokenizer import train_tokenizer
from sdtt.data.windows import ReadingPlace, Windows

LENGTH, LANES, BATCH = 8, 4, 8
STORIES = [
    f"Story {n}. " + " ".join(f"the cat saw {n * k} birds" for k in range(1 + n * n % 7))
    for n in range(60)
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(STORIES, 300)


def json_lines(texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


@pytest.fixture
def corpus(tmp_path):
    """Sixty stories in three files."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.jsonl").write_text(json_lines(STORIES[20 * number :][:20]))
    return folder


def split(source, tokenizer, blocks=256, **settings):
    default = {"length": LENGTH, "lanes": LANES, "buffer": 10, "validation_fraction": 0.2}
    found = StreamSettings(**default | settings)
    return stream_blocks(source, tokenizer, found, validation_blocks=blocks)


def stream(source, tokenizer, **settings):
    return split(source, tokenizer, **settings).train


def texts(blocks, places):
    return [blocks[place].tolist() for place in places]


def windows(source, start=None, **settings):
    found = parts_of(source, text_column="text", eos=0)
    return Windows(found, **{"seed": 0, "size": 10} | settings, start=start)


def epoch(reader):
    """The documents of a reader up to the end of the epoch that it is in."""
    found, now = [], reader.place.epoch
    while reader.place.epoch == now:
        found += reader.read()
    return found


# The order of documents


def test_every_epoch_reads_each_document_once(corpus):
    reader = windows(corpus)
    assert [Counter(epoch(reader)) for _ in range(3)] == [Counter(STORIES)] * 3


def test_every_epoch_has_an_order_of_its_own(corpus):
    reader = windows(corpus)
    orders = [STORIES, *(epoch(reader) for _ in range(3))]
    assert len({tuple(order) for order in orders}) == 4


def test_the_order_is_a_function_of_the_seed(corpus):
    assert epoch(windows(corpus)) == epoch(windows(corpus))
    assert epoch(windows(corpus)) != epoch(windows(corpus, seed=1))


def test_every_epoch_reads_the_files_in_another_order(corpus):
    reader = windows(corpus, size=1)
    firsts = {STORIES.index(epoch(reader)[0]) for _ in range(12)}
    assert firsts == {0, 20, 40}


def test_a_window_begins_again_at_its_place(corpus):
    reader = windows(corpus, size=7)
    for _ in range(25):
        place = reader.place
        assert windows(corpus, size=7, start=place).read() == reader.read()


def test_a_window_of_long_documents_holds_fewer(corpus, monkeypatch):
    monkeypatch.setattr("sdtt.data.windows.LARGEST", 200)
    assert 1 < len(windows(corpus, size=60).read()) < 10


# Dealing


def dealer(source, lanes=LANES, fraction=0.0):
    return Dealer(windows(source), Start(ReadingPlace(), 0, (0,) * lanes), fraction)


def test_no_lane_is_ahead_of_another_by_more_than_a_document(corpus):
    deals, loads = dealer(corpus), [0] * LANES
    for _ in range(300):
        _, lane, document = deals.deal()
        loads[lane] += weight(document)
        assert max(loads) - min(loads) <= max(map(weight, STORIES))


def test_text_weighs_its_bytes_and_ids_four_each():
    assert (weight("Grün"), weight("grun"), weight(np.arange(3))) == (5, 4, 12)


def test_documents_held_back_are_not_dealt(corpus):
    held = {one.document for one in split_by_hash(STORIES, 0.3) if one.validation}
    deals = dealer(corpus, fraction=0.3)
    dealt = {deals.deal()[2] for _ in range(200)}
    assert held
    assert dealt == set(STORIES) - held


@pytest.mark.parametrize(("processes", "micro_batch"), [(1, 8), (2, 4), (4, 2), (2, 2), (8, 1)])
def test_the_lanes_of_an_update_are_divided_among_the_processes(processes, micro_batch):
    served = [
        lanes_of_process(process=n, processes=processes, micro_batch=micro_batch, lanes=8)
        for n in range(processes)
    ]
    assert sorted(lane for each in served for lane in each) == list(range(8))


def test_a_process_serves_the_lanes_of_all_places_that_it_will_ask_for():
    served = lanes_of_process(process=1, processes=3, micro_batch=2, lanes=5)
    asked = {p % 5 for first in range(2, 600, 6) for p in (first, first + 1)}
    assert served == asked


# Packing


def test_one_lane_unshuffled_is_what_load_blocks_gives_epoch_after_epoch(tmp_path, tokenizer):
    file = tmp_path / "a.jsonl"
    file.write_text(json_lines(STORIES))
    blocks = stream(file, tokenizer, lanes=1, buffer=1, validation_fraction=0.0)
    encoded = encode_texts(tokenizer, STORIES)
    law = [token for ids in encoded for token in [*ids, tokenizer.eos_token_id]]
    count = 2 * len(law) // LENGTH
    found = [token for text in texts(blocks, range(count)) for token in text]
    assert found == (2 * law)[: len(found)]
    whole = load_blocks(file, tokenizer, LENGTH, validation_fraction=0.0, cache_dir=tmp_path).train
    assert found[: whole.tokens] == whole[:].flatten().tolist()


def lanes_of(blocks, count):
    """The ids of each lane."""
    rows = texts(blocks, range(count * LANES))
    return [[token for row in rows[lane::LANES] for token in row] for lane in range(LANES)]


def test_a_lane_is_whole_documents_each_followed_by_eos(corpus, tokenizer):
    encoded = {tuple(ids) for ids in encode_texts(tokenizer, STORIES)}
    for lane in lanes_of(stream(corpus, tokenizer), 60):
        found, document = [], []
        for token in lane:
            if token == tokenizer.eos_token_id:
                found.append(tuple(document))
                document = []
            else:
                document.append(token)
        assert len(found) > 5
        assert set(found) <= encoded


def test_a_long_document_in_pieces_gives_the_texts_of_the_whole(corpus, tokenizer, monkeypatch):
    whole = texts(stream(corpus, tokenizer), range(100))
    monkeypatch.setattr(encoding, "PIECE", 30)
    assert texts(stream(corpus, tokenizer), range(100)) == whole


def test_texts_left_out_change_no_other(corpus, tokenizer):
    every = texts(stream(corpus, tokenizer), range(120))
    places = [place for place in range(120) if place % 3 == 0]
    assert texts(stream(corpus, tokenizer), places) == [every[place] for place in places]


def test_texts_asked_for_together_are_those_asked_for_one_by_one(corpus, tokenizer):
    one_by_one = texts(stream(corpus, tokenizer), range(64))
    blocks = stream(corpus, tokenizer)
    batches = [blocks.__getitems__(list(range(first, first + 16))) for first in range(0, 64, 16)]
    assert torch.cat([torch.stack(batch) for batch in batches]).tolist() == one_by_one


# Processes


def process_texts(blocks, process, processes, micro_batch, places):
    """What one process of a run is handed, micro-batch by micro-batch: place to text."""
    blocks.serve(
        lanes_of_process(process=process, processes=processes, micro_batch=micro_batch, lanes=LANES)
    )
    found = {}
    for first in range(places.start + process * micro_batch, places.stop, processes * micro_batch):
        asked = list(range(first, first + micro_batch))
        found |= dict(zip(asked, map(torch.Tensor.tolist, blocks.__getitems__(asked)), strict=True))
    return found


def together(make, processes, micro_batch, places):
    found = {}
    for process in range(processes):
        found |= process_texts(make(process), process, processes, micro_batch, places)
    return [found[place] for place in places]


@pytest.mark.parametrize(("processes", "micro_batch"), [(1, 8), (2, 4), (4, 2), (3, 1), (4, 1)])
def test_texts_do_not_depend_on_the_number_of_processes(corpus, tokenizer, processes, micro_batch):
    places = range(processes * micro_batch * 12)
    expected = texts(stream(corpus, tokenizer), places)
    found = together(lambda _: stream(corpus, tokenizer), processes, micro_batch, places)
    assert found == expected


def test_a_process_encodes_the_documents_of_its_own_lanes_only(corpus, tokenizer, monkeypatch):
    counted = []
    encode = encoding.encode_texts

    def counting(own, some):
        counted.extend(some)
        return encode(own, some)

    monkeypatch.setattr(encoding, "encode_texts", counting)
    blocks = stream(corpus, tokenizer, validation_fraction=0.0)
    process_texts(blocks, 0, LANES, 1, range(40 * LANES))
    lane_0 = len(counted)
    texts(stream(corpus, tokenizer, validation_fraction=0.0), range(40 * LANES))
    assert 3 < lane_0 < (len(counted) - lane_0) / 3


# Restarts


def gzipped(folder):
    with gzip.open(folder / "a.jsonl.gz", "wt") as file:
        file.write(json_lines(STORIES))
    return folder


def zstandard_text(folder):
    with zstandard.open(folder / "a.txt.zst", "wt") as file:
        file.write("\n<|endoftext|>\n".join(STORIES))
    return folder


def parquet(folder):
    table = datasets.Dataset.from_dict({"n": list(range(60)), "text": STORIES})
    table.to_parquet(folder / "a.parquet", batch_size=7)
    return folder / "a.parquet"


def streamed_by_datasets(folder):
    for number in range(2):
        table = datasets.Dataset.from_dict({"text": STORIES[30 * number :][:30], "n": [0] * 30})
        table.to_parquet(folder / f"train-{number}.parquet")
    return folder


def saved_by_datasets(folder):
    datasets.Dataset.from_dict({"text": STORIES}).save_to_disk(folder / "saved")
    return folder / "saved"


def ids(folder):
    tokens = [[2 + n % 250, *range(1, 2 + n % 9), 0] for n in range(60)]
    np.array([token for each in tokens for token in each], dtype="<u2").tofile(folder / "a.bin")
    return folder


FORMS = (gzipped, zstandard_text, parquet, streamed_by_datasets, saved_by_datasets, ids)


@pytest.mark.parametrize("form", FORMS)
def test_a_stream_of_any_form_goes_on_where_it_stood(tmp_path, tokenizer, form):
    (tmp_path / "data").mkdir()
    source = form(tmp_path / "data")
    blocks = stream(source, tokenizer)
    texts(blocks, range(4 * BATCH))
    for _ in range(6):  # past the end of the first epoch
        blocks.state().save(tmp_path / "state")
        first = LANES * blocks.state().lanes[0].blocks
        places = range(first, first + 4 * BATCH)
        again = stream(source, tokenizer)
        again.load_state(StreamState.load(tmp_path / "state"))
        assert texts(again, places) == texts(blocks, places)
    assert blocks.state().start.place.epoch > 0


def test_a_data_set_of_the_hub_is_streamed_and_goes_on_where_it_stood(monkeypatch, tokenizer):
    asked = []

    def load(name, config, *, streaming):
        asked.append((name, config, streaming))
        table = datasets.Dataset.from_dict({"n": list(range(60)), "text": STORIES})
        return datasets.IterableDatasetDict(train=table.to_iterable_dataset(num_shards=3))

    monkeypatch.setattr(datasets, "load_dataset", load)
    blocks, again = (stream("owner/name:config", tokenizer) for _ in range(2))
    texts(blocks, range(4 * BATCH))
    again.load_state(blocks.state())
    places = range(4 * BATCH, 9 * BATCH)
    assert texts(again, places) == texts(blocks, places)
    assert asked == 2 * [("owner/name", "config", True)]


def test_the_documentation_of_python_is_streamed_and_goes_on_where_it_stood(monkeypatch, tokenizer):
    monkeypatch.setattr(parts, "python_docs", lambda: iter(STORIES))  # all of it takes seconds
    blocks, again = (stream("python-docs", tokenizer) for _ in range(2))
    texts(blocks, range(4 * BATCH))
    again.load_state(blocks.state())
    places = range(4 * BATCH, 9 * BATCH)
    assert texts(again, places) == texts(blocks, places)


def test_a_stream_goes_on_amid_a_long_document(corpus, tokenizer, monkeypatch):
    monkeypatch.setattr(encoding, "PIECE", 30)
    blocks = stream(corpus, tokenizer)
    seen = 0
    for update in range(20):
        state = blocks.state()
        seen += any(lane.pieces > 0 for lane in state.lanes.values())
        places = range(BATCH * update, BATCH * update + BATCH)
        again = stream(corpus, tokenizer)
        again.load_state(state)
        assert texts(again, places) == texts(blocks, places)
    assert seen > 5


def test_a_state_does_not_change_while_the_stream_goes_on(corpus, tokenizer):
    blocks = stream(corpus, tokenizer)
    expected = texts(stream(corpus, tokenizer), range(160))
    texts(blocks, range(64))
    state = blocks.state()
    texts(blocks, range(64, 160))
    again = stream(corpus, tokenizer)
    again.load_state(state)
    assert texts(again, range(64, 160)) == expected[64:]


@pytest.mark.parametrize(
    ("before", "after"), [((2, 4), (1, 8)), ((1, 8), (4, 2)), ((2, 2), (1, 4))]
)
def test_a_stream_goes_on_with_another_number_of_processes(
    tmp_path, corpus, tokenizer, before, after
):
    expected = texts(stream(corpus, tokenizer, buffer=2), range(200))
    states = []
    for process in range(before[0]):
        blocks = stream(corpus, tokenizer, buffer=2)
        process_texts(blocks, process, *before, range(136))
        blocks.state().save(tmp_path / f"{process}")
        states.append(StreamState.load(tmp_path / f"{process}"))

    def take_up(_):
        blocks = stream(corpus, tokenizer, buffer=2)
        blocks.load_state(StreamState.merge(states))
        return blocks

    assert together(take_up, *after, range(136, 200)) == expected[136:]


def test_going_on_does_not_look_at_what_lies_before(tmp_path, tokenizer):
    file = tmp_path / "a.jsonl"
    file.write_text(json_lines(STORIES))
    blocks = stream(file, tokenizer)
    texts(blocks, range(8 * LANES))
    state = blocks.state()
    assert state.start.place.epoch == 0
    offset = state.start.place.position[0]
    assert offset > 1000
    expected = texts(blocks, range(8 * LANES, 10 * LANES))
    file.write_bytes(b"\0" * offset + file.read_bytes()[offset:])
    again = stream(file, tokenizer, blocks=0)
    again.load_state(state)
    assert texts(again, range(8 * LANES, 10 * LANES)) == expected


def test_a_rewound_stream_begins_anew(corpus, tokenizer):
    blocks = stream(corpus, tokenizer)
    first = texts(blocks, range(80))
    blocks.rewind()
    assert texts(blocks, range(80)) == first


# Validation


def test_the_held_blocks_are_the_first_that_load_blocks_holds_back(tmp_path, corpus, tokenizer):
    whole = load_blocks(
        corpus, tokenizer, LENGTH, validation_fraction=0.2, cache_dir=tmp_path / "cache"
    ).validation
    held = split(corpus, tokenizer, blocks=10).validation
    assert len(whole) > 10
    assert torch.equal(held[:], whole[:10])
    everything = split(corpus, tokenizer, blocks=10_000).validation
    assert torch.equal(everything[:], whole[:])
    assert everything.bytes_per_token == pytest.approx(whole.bytes_per_token)


@pytest.mark.parametrize("settings", [{"validation_fraction": 0.0}, {"blocks": 0}])
def test_nothing_is_held_where_nothing_is_asked_for(corpus, tokenizer, settings):
    assert len(split(corpus, tokenizer, **settings).validation) == 0


# Errors


def test_a_text_is_handed_out_once(corpus, tokenizer):
    blocks = stream(corpus, tokenizer)
    texts(blocks, range(9))
    with pytest.raises(ValueError, match=r"text 5 of the stream was handed out before.*rewind"):
        blocks[5]


def test_a_lane_that_is_not_served_is_refused(corpus, tokenizer):
    blocks = stream(corpus, tokenizer)
    blocks.serve([0, 1])
    with pytest.raises(ValueError, match="lane 2 of the stream is not one"):
        blocks[2]


def test_a_corpus_of_fewer_documents_than_lanes_is_refused_with_the_way_out(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text(" ".join(STORIES))
    blocks = stream(tmp_path / "a.txt", tokenizer, validation_fraction=0.0)
    with pytest.raises(ValueError, match=r"1 documents .* fewer than the 4 lanes.*--stream out"):
        blocks[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lanes": 2}, "lanes was 4 when .* is 2 now"),
        ({"seed": 1}, "seed was 0 when .* is 1 now"),
        ({"length": 4}, "length was 8 when .* is 4 now"),
    ],
)
def test_a_stream_of_other_settings_does_not_go_on(corpus, tokenizer, change, message):
    state = stream(corpus, tokenizer).state()
    with pytest.raises(ValueError, match=message):
        stream(corpus, tokenizer, **change).load_state(state)


def test_a_stream_of_other_files_does_not_go_on(corpus, tokenizer):
    state = stream(corpus, tokenizer).state()
    (corpus / "3.jsonl").write_text(json_lines(["More."]))
    with pytest.raises(ValueError, match=r"the data \(names and sizes of its files\) was"):
        stream(corpus, tokenizer).load_state(state)


def test_a_state_without_a_lane_that_is_served_is_refused(corpus, tokenizer):
    blocks = stream(corpus, tokenizer)
    blocks.serve([0, 2])
    with pytest.raises(ValueError, match=r"lacks lane 1 \(and 1 more\).*one folder"):
        stream(corpus, tokenizer).load_state(blocks.state())


@pytest.mark.parametrize("name", ["length", "lanes", "buffer"])
def test_a_setting_below_one_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} of a stream must be at least 1, got 0"):
        StreamSettings(**{"length": 8, "lanes": 4, name: 0})
