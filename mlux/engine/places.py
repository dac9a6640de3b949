"""From a hook's path to the place in this model that it names, or to the reason for its lack."""

from collections.abc import Mapping
from dataclasses import dataclass

from mlx.nn.layers.base import Module

from mlux.engine import sites
from mlux.engine.anatomy import Anatomy, Block, Term
from mlux.errors import HookError, UnknownNameError


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a hook acts.

    Attributes:
        module: The module whose call is hooked; for taps, the block's token mixer.
        kind: The canonical kind; None for a module's own path.
        term: The factor with which the module's output enters the residual stream.
    """

    module: Module
    kind: sites.Kind | None = None
    layer: int | None = None
    head: int | None = None
    term: Term | None = None


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
            names += [sites.resid_pre(layer), sites.resid_post(layer)]
            names += [sites.attn_out(layer)] * (block.attn_out is not None)
            names += [sites.mlp_out(layer)] * (block.mlp_out is not None)
            if block.n_heads:
                names += [sites.tap(layer, kind) for kind in sites.TAPS if kind != "head"]
                names += [sites.head(layer, head) for head in range(block.n_heads)]
        names += ["model.norm"] * (anatomy.norm is not None)
        return list(dict.fromkeys([*names, *filter(None, self.modules)]))

    def residual_sites(self) -> list[str]:
        """The residual stream after each block, and what each attention and MLP adds to it."""
        names = []
        for layer, block in enumerate(self.anatomy.blocks):
            names += [sites.attn_out(layer)] * (block.attn_out is not None)
            names += [sites.mlp_out(layer)] * (block.mlp_out is not None)
            names.append(sites.resid_post(layer))
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
                raise HookError("This model has no final norm.")
            return Place(module=self.modules[self.anatomy.norm], kind="norm")
        block = self._block(site, path)
        if site.kind in ("resid_pre", "resid_post"):
            return Place(module=self.modules[block.path], kind=site.kind, layer=site.layer)
        if site.kind in ("attn_out", "mlp_out"):
            return self._term(block, site, path)
        return self._tap(block, site, path)

    def _block(self, site: sites.Site, path: str) -> Block:
        n_layers = len(self.anatomy.blocks)
        assert site.layer is not None
        if site.layer >= n_layers:
            raise HookError(f"{path!r}: this model has {n_layers} layers, 0 to {n_layers - 1}.")
        return self.anatomy.blocks[site.layer]

    def _term(self, block: Block, site: sites.Site, path: str) -> Place:
        term = block.attn_out if site.kind == "attn_out" else block.mlp_out
        if term is None:
            part = "attention" if site.kind == "attn_out" else "MLP"
            raise HookError(
                f"{path!r}: what the {part} of block {site.layer} adds to the residual stream "
                f"cannot be told apart in this model; hook the modules inside {block.path!r}."
            )
        return Place(module=self.modules[term.path], kind=site.kind, layer=site.layer, term=term)

    def _tap(self, block: Block, site: sites.Site, path: str) -> Place:
        if block.mixer is None or not block.n_heads:
            raise HookError(f"{path!r}: block {site.layer} has no softmax attention.")
        if site.head is not None and site.head >= block.n_heads:
            last = block.n_heads - 1
            raise HookError(f"{path!r}: block {site.layer} has {block.n_heads} heads, 0 to {last}.")
        module = self.modules[block.mixer]
        return Place(module=module, kind=site.kind, layer=site.layer, head=site.head)
