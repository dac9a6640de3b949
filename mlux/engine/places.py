"""From a hook's path to the place in this model that it names, or to the reason for its lack."""

from collections.abc import Mapping
from dataclasses import dataclass

from mlx.nn.layers.base import Module

from mlux.engine import sites
from mlux.engine.anatomy import Anatomy, Block
from mlux.errors import HookError, UnknownNameError


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a hook acts.

    Attributes:
        module: The module whose call is hooked; for taps, the block's token mixer.
        kind: The canonical kind; None for a module's own path.
        terms: What `attn_out` or `mlp_out` sums: modules, with the factors of their outputs.
        stream: Which argument is the residual stream, for the input of a block.
    """

    module: Module
    kind: sites.Kind | None = None
    layer: int | None = None
    head: int | None = None
    terms: tuple[tuple[Module, float], ...] = ()
    stream: int | str | None = None


@dataclass(frozen=True, kw_only=True, repr=False)
class Layout:
    """A model's modules by path, with its anatomy.

    Attributes:
        modules: Every module by its own path; the model's own path is empty.
    """

    anatomy: Anatomy
    modules: Mapping[str, Module]

    def block(self, layer: int) -> Module:
        """The block's module."""
        return self.modules[self.anatomy.blocks[layer].path]

    def mixer(self, layer: int) -> Module:
        """The module in which the block's attention happens."""
        path = self.anatomy.blocks[layer].mixer
        assert path is not None
        return self.modules[path]

    def available(self) -> list[str]:
        """Every path that can be hooked: the canonical names first, then the own paths."""
        anatomy = self.anatomy
        names = ["model.embed_tokens"]
        for layer, block in enumerate(anatomy.blocks):
            if "resid_post" not in block.lacks:
                names += [sites.resid_pre(layer), sites.resid_post(layer)]
            names += [sites.attn_out(layer)] * bool(block.attn_out)
            names += [sites.mlp_out(layer)] * bool(block.mlp_out)
            if block.n_heads:
                names += [sites.tap(layer, kind) for kind in sites.TAPS if kind != "head"]
                names += [sites.head(layer, head) for head in range(block.n_heads)]
        names += ["model.norm"] * (anatomy.norm is not None)
        # A canonical name of what the model lacks is no name of a module that happens to have it.
        own = [path for path in self.modules if path and sites.parse(path) is None]
        return list(dict.fromkeys([*names, *own]))

    def residual_sites(self) -> list[str]:
        """The residual stream after each block, and what each attention and MLP adds to it."""
        names = []
        for layer, block in enumerate(self.anatomy.blocks):
            names += [sites.attn_out(layer)] * bool(block.attn_out)
            names += [sites.mlp_out(layer)] * bool(block.mlp_out)
            names += [sites.resid_post(layer)] * ("resid_post" not in block.lacks)
        return names

    def locate(self, path: str) -> Place:
        """The place that a path names.

        Raises:
            UnknownNameError: If there is no such path; the message has close matches.
            HookError: If it is a canonical name of something that this model lacks.
        """
        site = sites.parse(path)
        if site is None:
            if path not in self.modules or not path:
                raise UnknownNameError(
                    "hook", path, self.available(), "See model.available_hooks()."
                )
            return Place(module=self.modules[path])
        if site.kind == "embed":
            return Place(module=self.modules[self.anatomy.embed_tokens], kind="embed")
        if site.kind == "norm":
            if self.anatomy.norm is None:
                raise HookError(f"{path!r}: {self.anatomy.lacks['norm']}.")
            return Place(module=self.modules[self.anatomy.norm], kind="norm")
        block = self._block(site, path)
        if site.kind in block.lacks:
            part = sites.WORDS[site.kind]
            raise HookError(
                f"{path!r}: block {site.layer} has no {part}: {block.lacks[site.kind]}."
            )
        if site.kind in ("resid_pre", "resid_post"):
            return self._stream(block, site)
        if site.kind in ("attn_out", "mlp_out"):
            terms = tuple((self.modules[t.path], t.factor) for t in block.terms(site.kind))
            return Place(module=terms[-1][0], kind=site.kind, layer=site.layer, terms=terms)
        return self._tap(block, site, path)

    def _block(self, site: sites.Site, path: str) -> Block:
        n_layers = len(self.anatomy.blocks)
        assert site.layer is not None
        if site.layer >= n_layers:
            raise HookError(f"{path!r}: this model has {n_layers} layers, 0 to {n_layers - 1}.")
        return self.anatomy.blocks[site.layer]

    def _stream(self, block: Block, site: sites.Site) -> Place:
        if site.kind == "resid_post" or block.entry is None:
            stream = block.stream if site.kind == "resid_pre" else None
            module = self.modules[block.path]
        else:
            stream, module = None, self.modules[block.entry]
        return Place(module=module, kind=site.kind, layer=site.layer, stream=stream)

    def _tap(self, block: Block, site: sites.Site, path: str) -> Place:
        assert block.mixer is not None
        if site.head is not None and site.head >= block.n_heads:
            last = block.n_heads - 1
            raise HookError(f"{path!r}: block {site.layer} has {block.n_heads} heads, 0 to {last}.")
        module = self.modules[block.mixer]
        return Place(module=module, kind=site.kind, layer=site.layer, head=site.head)
