"""Quantised numbers in closed form."""

import pytest
import torch

from quantised_files import E2M1, random_mxfp4
from remodeler.model.files.dequantised import microscaled, scaled


def test_every_code_of_four_bits() -> None:
    blocks = torch.tensor([low | (low ^ 8) << 4 for low in range(16)], dtype=torch.uint8).reshape(1, 1, 1, 16)
    found = microscaled(blocks, torch.full((1, 1, 1), 128, dtype=torch.uint8)).flatten()
    assert found[0::2].tolist() == [2 * value for value in E2M1]
    assert found[1::2].tolist() == [-2 * value for value in E2M1]


def test_blocks_run_along_what_an_expert_reads() -> None:
    blocks, scales, meant = random_mxfp4((3, 64, 5))
    assert torch.equal(microscaled(blocks, scales), meant)


@pytest.mark.parametrize("blocks", [(2, 3), (3, 2), (4, 4), (8, 8)])
def test_the_scale_of_a_number_is_that_of_its_block(blocks: tuple[int, int]) -> None:
    torch.manual_seed(0)
    stored = torch.randn(2, 5, 7).to(torch.float8_e4m3fn)
    scales = torch.rand(2, -(-5 // blocks[0]), -(-7 // blocks[1]))
    found = scaled(stored, scales, blocks)
    for place in [(each, row, column) for each in range(2) for row in range(5) for column in range(7)]:
        each, row, column = place
        exact = stored[place].float() * scales[each, row // blocks[0], column // blocks[1]]
        assert found[place] == exact.bfloat16()


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (5, 1)])
def test_scales_of_tensors_and_rows(shape: tuple[int, ...]) -> None:
    stored, scales = torch.randn(5, 7).to(torch.float8_e5m2), torch.rand(shape)
    assert torch.equal(scaled(stored, scales), (stored.float() * scales).bfloat16())


def test_scales_of_one_byte_are_exponents() -> None:
    stored = torch.randn(2, 4).to(torch.float8_e4m3fn)
    exponents = torch.tensor([[126, 130], [0, 127]], dtype=torch.uint8)
    powers = torch.tensor([[0.5, 8.0], [2.0**-127, 1.0]]).repeat_interleave(2, 1)
    assert torch.equal(scaled(stored, exponents, (1, 2)), (stored.float() * powers).bfloat16())


def test_scales_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"scales \[2, 7\] do not fit \[5, 7\] in blocks of \(2, 2\)"):
        scaled(torch.zeros(5, 7, dtype=torch.float8_e4m3fn), torch.ones(2, 7), (2, 2))
